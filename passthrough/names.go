package passthrough

// What the guest's own changes mean for the ways back to nodes.

// named returns the node, in use, of what a name below d leads to, or nil. As long as no
// node is without its descriptor a hint is good enough; then what the host has put there
// since must be found, which may be one that loses its only way.
func (fs *FS) named(t *thread, d *node, name *byte) *slot[node] {
	tab := &fs.nodes
	if n, gen, known := fs.hints.of(d.id, text(name)).load(); known && !tab.clock.ran.Load() {
		return tab.slab.recall(n, gen)
	}
	if statxAt(d.fd, name, &t.probe, fs.host.statxMask) != 0 {
		return nil
	}
	k := keyOf(&t.probe)
	s, h := tab.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := tab.find(s, h, k); e != nil {
		return tab.slab.pin(e.n)
	}
	return nil
}

// victim is named for what is about to lose the name. After its last name it could not be
// found again, so it gets its descriptor back first. It keeps it while it is in use,
// and after that because it has no links.
func (fs *FS) victim(t *thread, d *node, name *byte) *slot[node] {
	e := fs.named(t, d, name)
	if e != nil {
		fs.ensureOpen(t, e) // if it cannot be, it is gone already
	}
	return e
}

func (fs *FS) putNamed(e *slot[node]) {
	if e != nil {
		fs.nodes.put(e)
	}
}

// unnamed notes that a name does not lead to e any more, which may be nil.
func (fs *FS) unnamed(e *slot[node], d *node, name *byte) {
	nm := text(name)
	fs.hints.of(d.id, nm).setMissing()
	if e == nil {
		return
	}
	s, _ := fs.nodes.shard(e.v.key)
	s.mu.Lock()
	s.dropName(e, d.id, nm)
	e.state.Or(slotUnnamed)
	s.mu.Unlock()
	fs.spares.drop(e.n)
}

// renamed notes that a name leads to e now, which may be nil.
func (fs *FS) renamed(e *slot[node], d *node, name *byte) {
	if e == nil {
		return
	}
	nm := text(name)
	fs.hints.of(d.id, nm).set(e.v.id)
	s, _ := fs.nodes.shard(e.v.key)
	s.mu.Lock()
	s.setName(e, d.id, nm)
	s.mu.Unlock()
}
