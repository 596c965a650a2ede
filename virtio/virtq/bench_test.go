package virtq_test

import (
	"testing"

	"vfiofs/virtio/guestmem"
	"vfiofs/virtio/virtq"
	"vfiofs/virtio/virtq/virtqtest"
)

// BenchmarkReadRequest takes and completes the chains of READ requests, driver side
// included: two readable descriptors, and a header and pages to write.
func BenchmarkReadRequest(b *testing.B) {
	for _, bm := range []struct {
		name     string
		pages    int
		indirect bool
	}{{"4K direct", 1, false}, {"4K indirect", 1, true}, {"64K indirect", 16, true}, {"1M indirect", 256, true}} {
		b.Run(bm.name, func(b *testing.B) {
			r, q := start(b, virtqtest.Options{Size: 256, EventIdx: true, Indirect: true})
			d := driver(b, r)
			read := []virtq.Seg{{Addr: virtqtest.DataGPA, Len: 40}, {Addr: virtqtest.DataGPA + 64, Len: 40}}
			write := []virtq.Seg{{Addr: virtqtest.DataGPA + 128, Len: 16}}
			for i := range bm.pages {
				// Scattered: the pages go backwards.
				write = append(write, virtq.Seg{Addr: virtqtest.AdjacentGPA + guestmem.GPA((255-i)*4096), Len: 4096})
			}
			table := r.Bytes(virtqtest.HighGPA, 64<<10)
			var c virtq.Chain
			b.ReportAllocs()
			for b.Loop() {
				if bm.indirect {
					d.AddIndirect(read, write, table, virtqtest.HighGPA)
				} else {
					d.Add(read, write)
				}
				d.Publish()
				if ok, err := q.Next(&c); !ok || err != nil || c.Err != nil {
					b.Fatalf("Next() = %v, %v, %v; want a chain", ok, err, c.Err)
				}
				q.Done(&c, 16)
				d.Used()
			}
		})
	}
}

// BenchmarkArm is what it costs to go to sleep: mostly the fence.
func BenchmarkArm(b *testing.B) {
	_, q := start(b, virtqtest.Options{EventIdx: true})
	for b.Loop() {
		q.Arm()
	}
}
