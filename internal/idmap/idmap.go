// Package idmap holds the id maps of a user namespace: what --uid-map and --gid-map say
// and what the kernel wants in /proc/PID/uid_map and gid_map.
//
//	--uid-map "0 100000 1000,1000 1000 1"          (fs-device.md A.3.1)
//	--uid-map :0:100000:1000: --uid-map :1000:1000:1:   (virtiofsd, A.3.2)
//	   └─ Parse ─> Map{{0, 100000, 1000}, {1000, 1000, 1}} ─ String ─> uid_map
//
// A Map from Parse is one that the kernel takes, so that mistakes are reported by name and
// before anything is started. All is plain data: no locks. The specifications are
// fs-device.md A.3 and user_namespaces(7).
package idmap

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxExtents is how many extents the kernel takes (linux include/linux/user_namespace.h:
// UID_GID_MAP_MAX_EXTENTS).
const MaxExtents = 340

// An Extent maps the Count ids from Inside on, as seen in the namespace, to those from
// Outside on.
type Extent struct {
	Inside, Outside, Count uint32
}

// A Map is a list of extents of which no two overlap, inside or outside.
type Map []Extent

// Parse reads the values of a repeatable option. Each is a list in the seed's form if it
// begins with a digit, else one extent in virtiofsd's form.
func Parse(values ...string) (Map, error) {
	var m Map
	for _, value := range values {
		extents, err := split(value)
		if err != nil {
			return nil, fmt.Errorf("id map %q: %w", value, err)
		}
		for _, fields := range extents {
			e, err := parseExtent(fields)
			if err == nil {
				err = m.check(e)
			}
			if err != nil {
				return nil, fmt.Errorf("id map %q: %w", value, err)
			}
			m = append(m, e)
		}
	}
	return m, nil
}

// errForm is for values that look like neither form.
var errForm = errors.New(`write INSIDE OUTSIDE COUNT for each range, like "0 100000 65536,70000 1000 1" or ":0:100000:65536:"`)

// split returns the numbers of each extent, as text.
func split(value string) ([][]string, error) {
	value = strings.Trim(value, " \t")
	first, size := utf8.DecodeRuneInString(value)
	switch {
	case size == 0 || !utf8.ValidString(value) || unicode.IsLetter(first):
		return nil, errForm
	case unicode.IsNumber(first):
		var extents [][]string
		for element := range strings.SplitSeq(value, ",") {
			extents = append(extents, strings.Fields(element))
		}
		return extents, nil
	}
	inner, ok := strings.CutSuffix(value[size:], string(first))
	if !ok {
		return nil, fmt.Errorf("it begins with %q and must end with it too: %w", first, errForm)
	}
	return [][]string{strings.Split(inner, string(first))}, nil
}

// parseExtent reads three decimal numbers, and refuses ranges that hold the id 4294967295:
// it means "no id" to system calls.
func parseExtent(fields []string) (Extent, error) {
	if len(fields) != 3 {
		return Extent{}, fmt.Errorf("a range has 3 numbers, not %d: %w", len(fields), errForm)
	}
	var n [3]uint32
	for i, field := range fields {
		v, err := strconv.ParseUint(field, 10, 32)
		if err != nil {
			return Extent{}, fmt.Errorf("%q is no number from 0 to 4294967295: %w", field, errForm)
		}
		n[i] = uint32(v)
	}
	e := Extent{n[0], n[1], n[2]}
	switch {
	case e.Count == 0:
		return e, fmt.Errorf("range %v holds no id: COUNT must be 1 or more", e)
	case e.Count > math.MaxUint32-e.Inside || e.Count > math.MaxUint32-e.Outside:
		return e, fmt.Errorf("range %v goes beyond 4294967294, the last id: make COUNT smaller", e)
	}
	return e, nil
}

// check reports whether e can be added to m.
func (m Map) check(e Extent) error {
	if len(m) == MaxExtents {
		return fmt.Errorf("it has more than %d ranges, which is all that the kernel takes: join some", MaxExtents)
	}
	for _, other := range m {
		switch {
		case overlap(e.Inside, e.Count, other.Inside, other.Count):
			return fmt.Errorf("ranges %v and %v share ids inside the namespace: an id maps to one other only", other, e)
		case overlap(e.Outside, e.Count, other.Outside, other.Count):
			return fmt.Errorf("ranges %v and %v share ids outside of the namespace: an id maps to one other only", other, e)
		}
	}
	return nil
}

// overlap reports whether two ranges have an id in common. Neither wraps around.
func overlap(a, aCount, b, bCount uint32) bool {
	return a < b+bCount && b < a+aCount
}

// String returns the extent as a line of /proc/PID/uid_map.
func (e Extent) String() string { return fmt.Sprintf("%d %d %d", e.Inside, e.Outside, e.Count) }

// String returns the content of /proc/PID/uid_map.
func (m Map) String() string {
	var b strings.Builder
	for _, e := range m {
		b.WriteString(e.String())
		b.WriteByte('\n')
	}
	return b.String()
}

// Inside returns what the id of the parent namespace is called inside, if it is mapped.
func (m Map) Inside(outside uint32) (uint32, bool) {
	for _, e := range m {
		if d := outside - e.Outside; outside >= e.Outside && d < e.Count {
			return e.Inside + d, true
		}
	}
	return 0, false
}

// Outside returns the id of the parent namespace that inside stands for, if it is mapped.
func (m Map) Outside(inside uint32) (uint32, bool) {
	for _, e := range m {
		if d := inside - e.Inside; inside >= e.Inside && d < e.Count {
			return e.Outside + d, true
		}
	}
	return 0, false
}

// Choose returns the id inside that a server runs as (fs-device.md A.3.6): asked unless it
// is 0, else 0 if it is mapped, else what own, the caller's id outside, is called inside.
// It reports false if the map has none of them.
func (m Map) Choose(asked, own uint32) (uint32, bool) {
	if _, ok := m.Outside(asked); ok || asked != 0 {
		return asked, ok
	}
	return m.Inside(own)
}
