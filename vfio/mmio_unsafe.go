package vfio

import "unsafe"

// load reads n bytes of registers, n a power of two up to 8, in one access. The caller
// has checked that off is aligned and off+n lies within mem.
//
// The compiler merges and hoists plain accesses, and the stores of sync/atomic are
// exchanges on amd64, which read the register too (nested-lab.md section 8). So each
// width is a function of its own that isn't inlined.
func load(mem []byte, off int64, n int) uint64 {
	// SAFETY: the caller has checked off and n.
	p := unsafe.Add(unsafe.Pointer(unsafe.SliceData(mem)), off)
	switch n {
	case 1:
		return uint64(load8((*uint8)(p)))
	case 2:
		return uint64(load16((*uint16)(p)))
	case 4:
		return uint64(load32((*uint32)(p)))
	}
	return load64((*uint64)(p))
}

// store is load's counterpart.
func store(mem []byte, off int64, n int, v uint64) {
	// SAFETY: the caller has checked off and n.
	p := unsafe.Add(unsafe.Pointer(unsafe.SliceData(mem)), off)
	switch n {
	case 1:
		store8((*uint8)(p), uint8(v))
	case 2:
		store16((*uint16)(p), uint16(v))
	case 4:
		store32((*uint32)(p), uint32(v))
	default:
		store64((*uint64)(p), v)
	}
}

//go:noinline
//go:norace
func load8(p *uint8) uint8 { return *p }

//go:noinline
//go:norace
func load16(p *uint16) uint16 { return *p }

//go:noinline
//go:norace
func load32(p *uint32) uint32 { return *p }

//go:noinline
//go:norace
func load64(p *uint64) uint64 { return *p }

//go:noinline
//go:norace
func store8(p *uint8, v uint8) { *p = v }

//go:noinline
//go:norace
func store16(p *uint16, v uint16) { *p = v }

//go:noinline
//go:norace
func store32(p *uint32, v uint32) { *p = v }

//go:noinline
//go:norace
func store64(p *uint64, v uint64) { *p = v }
