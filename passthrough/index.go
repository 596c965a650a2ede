package passthrough

// An index finds slots by the hash of something that they hold. It is a hash table
// with linear probing whose entries are numbers (hash<<32 | slot), so that a million of
// them are nothing to the garbage collector. Slot 0 is none.
type index struct {
	table []uint64 // a power of two long, never full
	n     int
}

// find returns the slot with hash h that is says yes to, or 0.
func (x *index) find(h uint32, is func(slot uint32) bool) uint32 {
	if len(x.table) == 0 {
		return 0
	}
	for i := x.home(h); x.table[i] != 0; i = x.after(i) {
		if slot := uint32(x.table[i]); uint32(x.table[i]>>32) == h && is(slot) {
			return slot
		}
	}
	return 0
}

// add puts in a slot that is not there.
func (x *index) add(h, slot uint32) {
	if 4*(x.n+1) > 3*len(x.table) {
		x.grow()
	}
	x.put(uint64(h)<<32 | uint64(slot))
	x.n++
}

// remove takes a slot out, if it is there.
func (x *index) remove(h, slot uint32) {
	if len(x.table) == 0 {
		return
	}
	want, i := uint64(h)<<32|uint64(slot), x.home(h)
	for ; x.table[i] != want; i = x.after(i) {
		if x.table[i] == 0 {
			return
		}
	}
	x.n--
	// Entries behind move up, but never before their home.
	for j := x.after(i); x.table[j] != 0; j = x.after(j) {
		home := x.home(uint32(x.table[j] >> 32))
		if x.distance(home, j) >= x.distance(i, j) {
			x.table[i] = x.table[j]
			i = j
		}
	}
	x.table[i] = 0
}

func (x *index) grow() {
	old := x.table
	x.table = make([]uint64, max(16, 2*len(old)))
	for _, v := range old {
		if v != 0 {
			x.put(v)
		}
	}
}

func (x *index) put(v uint64) {
	i := x.home(uint32(v >> 32))
	for x.table[i] != 0 {
		i = x.after(i)
	}
	x.table[i] = v
}

func (x *index) home(h uint32) int { return int(h) & (len(x.table) - 1) }
func (x *index) after(i int) int   { return (i + 1) & (len(x.table) - 1) }

// distance returns how far it is from i on to j.
func (x *index) distance(i, j int) int { return (j - i) & (len(x.table) - 1) }
