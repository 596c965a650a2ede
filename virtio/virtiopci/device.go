package virtiopci

import (
	"encoding/binary"
	"sync"
)

// NotifyMultiplier is the distance in bytes between the notification registers of a
// Block's queues: that of queue i lies at i times this.
const NotifyMultiplier = 4

// BlockConfig describes a device to NewBlock. Callbacks run on the goroutine that
// makes the access, without any lock; they may call the Block. All may be nil.
type BlockConfig struct {
	Features uint64 // offered
	Sizes    []int  // of the queues: the largest that the driver may choose, powers of two
	Vectors  int    // length of the MSI-X table

	// OnStatus tells that the driver changed the status, except to 0.
	OnStatus func(from, to Status)
	// OnReset tells that the driver wrote 0 to the status, or that Reset is due for
	// another reason. The device stops what it does and calls Reset, at once or later:
	// until then the status reads as before and the driver's writes are dropped. If it is
	// nil, the block resets itself.
	OnReset func()
	// OnNotify tells that the driver made buffers of a queue available.
	OnNotify func(queue int)
}

// A Block is the device's side of the registers of a virtio PCI function: the common
// configuration, the ISR and the notification area. Its methods may be called from any
// goroutine.
type Block struct {
	cfg BlockConfig

	mu             sync.Mutex // guards what follows
	status         Status
	resetting      bool
	isr            uint8
	generation     uint8
	configVector   uint16
	deviceSelect   uint32
	driverSelect   uint32
	driverFeatures uint64
	queueSelect    uint16
	queues         []Queue
}

// A Queue is what the driver has said about a queue.
type Queue struct {
	Size    uint16 // descriptors
	Vector  uint16 // interrupt for used buffers, or NoVector
	Enabled bool
	Desc    uint64 // descriptor table, bus address
	Avail   uint64 // available ring, bus address
	Used    uint64 // used ring, bus address
}

// NewBlock returns the registers of a device in reset.
func NewBlock(cfg BlockConfig) *Block {
	b := &Block{cfg: cfg, queues: make([]Queue, len(cfg.Sizes))}
	b.clear()
	return b
}

// clear gives all registers their reset values.
func (b *Block) clear() {
	b.status, b.resetting, b.isr = 0, false, 0
	b.configVector = NoVector
	b.deviceSelect, b.driverSelect, b.driverFeatures, b.queueSelect = 0, 0, 0, 0
	for i, size := range b.cfg.Sizes {
		b.queues[i] = Queue{Size: uint16(size), Vector: NoVector}
	}
}

// Reset gives all registers their reset values: from now on the status reads 0.
func (b *Block) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clear()
}

// Status returns the status.
func (b *Block) Status() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status
}

// SetNeedsReset sets NEEDS_RESET; only a reset clears it.
func (b *Block) SetNeedsReset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status |= NeedsReset
}

// Features returns the features that the driver has acknowledged.
func (b *Block) Features() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.driverFeatures
}

// Queue returns the state of queue i.
func (b *Block) Queue(i int) Queue {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.queues[i]
}

// ConfigVector returns the interrupt for changes of the configuration, or NoVector.
func (b *Block) ConfigVector() uint16 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.configVector
}

// ConfigChanged starts a new generation of the device's configuration.
func (b *Block) ConfigChanged() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.generation++
}

// RaiseISR sets bits of the ISR. Drivers read it even if they use MSI-X.
func (b *Block) RaiseISR(bits uint8) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.isr |= bits
}

// ReadISR reads the ISR from offset off on, which clears it.
func (b *Block) ReadISR(p []byte, off int64) {
	clear(p)
	if off != 0 || len(p) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p[0], b.isr = b.isr, 0
}

// WriteNotify is a write to the notification area. Only the address counts: drivers
// write different values and widths.
func (b *Block) WriteNotify(off int64) {
	queue := off / NotifyMultiplier
	if off < 0 || queue >= int64(len(b.queues)) || b.cfg.OnNotify == nil {
		return
	}
	b.cfg.OnNotify(int(queue))
}

// A field is a register of the common configuration.
type field struct{ off, size int64 }

// fields returns the registers in the order of their offsets, without gaps. Addresses
// are two registers each, because drivers write their halves one after the other.
func fields() []field {
	return []field{
		{regDeviceFeatureSelect, 4},
		{regDeviceFeature, 4},
		{regDriverFeatureSelect, 4},
		{regDriverFeature, 4},
		{regConfigVector, 2},
		{regNumQueues, 2},
		{regStatus, 1},
		{regGeneration, 1},
		{regQueueSelect, 2},
		{regQueueSize, 2},
		{regQueueVector, 2},
		{regQueueEnable, 2},
		{regQueueNotifyOff, 2},
		{regQueueDesc, 4},
		{regQueueDesc + 4, 4},
		{regQueueDriver, 4},
		{regQueueDriver + 4, 4},
		{regQueueDevice, 4},
		{regQueueDevice + 4, 4},
	}
}

// ReadCommon reads the common configuration from offset off on, at any width. What
// lies past its end reads 0.
func (b *Block) ReadCommon(p []byte, off int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(p)
	for _, f := range fields() {
		if lo, hi, ok := overlap(f, off, len(p)); ok {
			var v [4]byte
			binary.LittleEndian.PutUint32(v[:], b.get(f.off))
			copy(p[lo-off:hi-off], v[lo-f.off:])
		}
	}
}

// WriteCommon writes the common configuration from offset off on, at any width. A
// register of which only some bytes are written keeps the others; what can't be
// written is left alone.
func (b *Block) WriteCommon(p []byte, off int64) {
	for _, f := range fields() {
		if lo, hi, ok := overlap(f, off, len(p)); ok {
			b.write(f, p[lo-off:hi-off], lo-f.off)
		}
	}
}

// overlap returns which bytes of f an access of n bytes at off touches.
func overlap(f field, off int64, n int) (lo, hi int64, ok bool) {
	lo, hi = max(f.off, off), min(f.off+f.size, off+int64(n))
	return lo, hi, lo < hi
}

// write stores some bytes of one register and tells the device about it.
func (b *Block) write(f field, p []byte, at int64) {
	b.mu.Lock()
	if b.resetting {
		b.mu.Unlock()
		return
	}
	var raw [4]byte
	binary.LittleEndian.PutUint32(raw[:], b.get(f.off))
	copy(raw[at:f.size], p)
	v := binary.LittleEndian.Uint32(raw[:])
	if f.off != regStatus {
		b.set(f.off, v)
		b.mu.Unlock()
		return
	}
	tell := b.setStatus(Status(v))
	b.mu.Unlock()
	tell()
}

// setStatus takes a new status from the driver. The caller calls the result once the
// lock is free.
func (b *Block) setStatus(to Status) (tell func()) {
	from := b.status
	if to == 0 {
		if b.cfg.OnReset == nil {
			b.clear()
			return func() {}
		}
		b.resetting = true
		return b.cfg.OnReset
	}
	to |= from // only a reset clears bits (virtio 1.3, 2.1.1)
	if to&^from&FeaturesOK != 0 && b.driverFeatures&^b.cfg.Features != 0 {
		to &^= FeaturesOK
	}
	b.status = to
	if from == to || b.cfg.OnStatus == nil {
		return func() {}
	}
	return func() { b.cfg.OnStatus(from, to) }
}

// get returns the value of the register at off.
func (b *Block) get(off int64) uint32 {
	switch off {
	case regDeviceFeatureSelect:
		return b.deviceSelect
	case regDeviceFeature:
		return half(b.cfg.Features, b.deviceSelect)
	case regDriverFeatureSelect:
		return b.driverSelect
	case regDriverFeature:
		return half(b.driverFeatures, b.driverSelect)
	case regConfigVector:
		return uint32(b.configVector)
	case regNumQueues:
		return uint32(len(b.queues))
	case regStatus:
		return uint32(b.status)
	case regGeneration:
		return uint32(b.generation)
	case regQueueSelect:
		return uint32(b.queueSelect)
	}
	q := b.selected()
	if q == nil {
		// A queue that doesn't exist has size 0 (virtio 1.3, 4.1.4.3.1).
		if off == regQueueVector {
			return NoVector
		}
		return 0
	}
	switch off {
	case regQueueSize:
		return uint32(q.Size)
	case regQueueVector:
		return uint32(q.Vector)
	case regQueueEnable:
		if q.Enabled {
			return 1
		}
	case regQueueNotifyOff:
		return uint32(b.queueSelect)
	default:
		if address, part := q.address(off); address != nil {
			return half(*address, part)
		}
	}
	return 0
}

// set stores the value of the register at off.
func (b *Block) set(off int64, v uint32) {
	switch off {
	case regDeviceFeatureSelect:
		b.deviceSelect = v
		return
	case regDriverFeatureSelect:
		b.driverSelect = v
		return
	case regDriverFeature:
		// The choice is final once FEATURES_OK is set (virtio 1.3, 3.1.1).
		if b.status&FeaturesOK == 0 {
			setHalf(&b.driverFeatures, b.driverSelect, v)
		}
		return
	case regConfigVector:
		b.configVector = b.vector(v)
		return
	case regQueueSelect:
		b.queueSelect = uint16(v)
		return
	}
	q := b.selected()
	if q == nil {
		return
	}
	switch off {
	case regQueueVector:
		q.Vector = b.vector(v)
	case regQueueEnable:
		q.Enabled = q.Enabled || v == 1
	case regQueueSize:
		if limit := uint32(b.cfg.Sizes[b.queueSelect]); !q.Enabled && v != 0 && v <= limit && v&(v-1) == 0 {
			q.Size = uint16(v)
		}
	default:
		if address, part := q.address(off); address != nil && !q.Enabled {
			setHalf(address, part, v)
		}
	}
}

// selected returns the queue that queue_select names, or nil.
func (b *Block) selected() *Queue {
	if int(b.queueSelect) >= len(b.queues) {
		return nil
	}
	return &b.queues[b.queueSelect]
}

// vector returns an interrupt as it reads back: NoVector unless the table has it.
func (b *Block) vector(v uint32) uint16 {
	if int64(v) >= int64(b.cfg.Vectors) {
		return NoVector
	}
	return uint16(v)
}

// address returns which address, and which half of it, the register at off is.
func (q *Queue) address(off int64) (address *uint64, part uint32) {
	part = uint32(off / 4 % 2)
	switch off &^ 7 {
	case regQueueDesc:
		return &q.Desc, part
	case regQueueDriver:
		return &q.Avail, part
	case regQueueDevice:
		return &q.Used, part
	}
	return nil, 0
}

// half returns 32 bits of a 64-bit register: the low ones for 0, the high ones for 1.
func half(v uint64, part uint32) uint32 {
	if part > 1 {
		return 0
	}
	return uint32(v >> (32 * part))
}

// setHalf stores 32 bits of a 64-bit register.
func setHalf(v *uint64, part, to uint32) {
	if part > 1 {
		return
	}
	*v = *v&^(0xffffffff<<(32*part)) | uint64(to)<<(32*part)
}
