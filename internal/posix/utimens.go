package posix

import "golang.org/x/sys/unix"

// utimensCases are the values that utimensat(2) takes, and gives back.
func utimensCases() (cases []testcase) {
	add := func(name string, run func(*env)) {
		cases = append(cases, testcase{name: "utimens/" + name, run: run})
	}
	set := func(path string, a, m unix.Timespec) error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{a, m}, unix.AT_SYMLINK_NOFOLLOW)
	}
	for _, kind := range []string{"file", "dir", "dangling", "fifo", "socket"} {
		for _, x := range []struct {
			label string
			at    unix.Timespec
		}{
			{"1970", unix.Timespec{}},
			{"nanosecond", unix.Timespec{Sec: 1, Nsec: 1}},
			{"last-nanosecond", unix.Timespec{Sec: 1, Nsec: 999999999}},
			{"1960", unix.Timespec{Sec: -315619200, Nsec: 5}},
			{"1901", unix.Timespec{Sec: -1 << 31}},
			{"2038", unix.Timespec{Sec: 1 << 31, Nsec: 7}},
			{"2106", unix.Timespec{Sec: 1 << 32}},
			{"2400", unix.Timespec{Sec: 13569465600, Nsec: 123456789}},
		} {
			add(kind+"/"+x.label, func(e *env) {
				e.make(kind, "f")
				e.is("set", set("f", x.at, unix.Timespec{Sec: x.at.Sec + 1, Nsec: x.at.Nsec}), "ok")
				st := e.stat("f")
				e.is("atime", st.Atim, x.at)
				e.is("mtime", st.Mtim, unix.Timespec{Sec: x.at.Sec + 1, Nsec: x.at.Nsec})
			})
		}
	}
	for _, x := range []struct {
		label string
		nsec  int64
	}{{"1e9", 1e9}, {"negative", -1}, {"large", 1 << 40}} {
		add("bad-nsec/"+x.label, func(e *env) {
			e.file("f", "")
			before := e.stat("f")
			e.is("atime", set("f", unix.Timespec{Nsec: x.nsec}, unix.Timespec{}), "EINVAL")
			e.is("mtime", set("f", unix.Timespec{}, unix.Timespec{Nsec: x.nsec}), "EINVAL")
			e.is("changed", changed(before, e.stat("f")), "")
		})
	}
	add("bad-flag", func(e *env) {
		e.file("f", "")
		e.is("EINVAL", unix.UtimesNanoAt(unix.AT_FDCWD, "f", make([]unix.Timespec, 2), 1<<20), "EINVAL")
	})
	now, omit := unix.Timespec{Nsec: unix.UTIME_NOW}, unix.Timespec{Nsec: unix.UTIME_OMIT}
	old := unix.Timespec{Sec: past, Nsec: 3}
	for _, x := range []struct {
		label        string
		a, m         unix.Timespec
		atime, mtime string
	}{
		{"now-now", now, now, "now", "now"},
		{"now-omit", now, omit, "now", "old"},
		{"omit-now", omit, now, "old", "now"},
		{"omit-omit", omit, omit, "old", "old"},
		{"now-set", now, unix.Timespec{Sec: 9}, "now", "9"},
		{"set-now", unix.Timespec{Sec: 9}, now, "9", "now"},
		{"set-omit", unix.Timespec{Sec: 9}, omit, "9", "old"},
		{"omit-set", omit, unix.Timespec{Sec: 9}, "old", "9"},
		{"seconds-ignored", unix.Timespec{Sec: 9, Nsec: unix.UTIME_NOW}, unix.Timespec{Sec: 9, Nsec: unix.UTIME_OMIT}, "now", "old"},
	} {
		add("special/"+x.label, func(e *env) {
			e.file("f", "")
			e.must(set("f", old, old))
			e.is("set", set("f", x.a, x.m), "ok")
			st := e.stat("f")
			call := func(t unix.Timespec) string {
				switch {
				case t == old:
					return "old"
				case t == unix.Timespec{Sec: 9}:
					return "9"
				case t.Sec > past+1e8:
					return "now"
				}
				return "something else"
			}
			e.is("atime", call(st.Atim), x.atime)
			e.is("mtime", call(st.Mtim), x.mtime)
		})
	}
	add("order", func(e *env) { // what make(1) relies on
		e.file("a", "")
		e.must(tick())
		e.file("b", "")
		a, b := e.stat("a").Mtim, e.stat("b").Mtim
		e.is("later", later(b, a), true)
		e.must(tick())
		e.must(drop(unix.Write(e.open("a", unix.O_WRONLY), []byte("x"))))
		e.is("written-later", later(e.stat("a").Mtim, b), true)
	})
	add("now-is-now", func(e *env) {
		var lo, hi unix.Timespec
		e.must(unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &lo))
		e.file("f", "")
		e.must(unix.ClockGettime(unix.CLOCK_REALTIME, &hi))
		st := e.stat("f")
		for i, t := range []unix.Timespec{st.Atim, st.Mtim, st.Ctim} {
			e.is([]string{"atime", "mtime", "ctime"}[i], !later(lo, t) && !later(t, hi), true)
		}
		e.is("one-moment", st.Mtim == st.Ctim, true)
	})
	return cases
}

// later reports whether a comes after b.
func later(a, b unix.Timespec) bool { return a.Nano() > b.Nano() }
