package passthrough

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"vfiofs/fuse"
)

// An IDMap translates user or group ids between guest and host (fs-device.md E.4.6). The
// zero IDMap leaves them as they are, and so does any other with ids that it does not
// know.
type IDMap struct {
	toHost, toGuest []idRange // each sorted and without overlaps
}

// An idRange translates the ids from first to last: to consecutive ones, all to one, or
// not at all.
type idRange struct {
	first, last uint32
	to          uint32 // of first
	how         idKind
}

// An idKind says what a range does to ids.
type idKind int

const (
	idShift idKind = iota
	idSquash
	idForbid
)

// ParseIDMap reads the rules of --translate-uid or --translate-gid: a type and its
// numbers, all separated by the same character (fs-device.md G.1.5).
func ParseIDMap(rules []string) (IDMap, error) {
	var m IDMap
	for _, rule := range rules {
		if err := m.add(rule); err != nil {
			return IDMap{}, fmt.Errorf("%w (in %q; write map:GUEST:HOST:COUNT, guest, host, squash-guest or squash-host:FROM:TO:COUNT, or forbid-guest:FROM:COUNT)", err, rule)
		}
	}
	return m, nil
}

// add adds one rule.
func (m *IDMap) add(rule string) error {
	separator := strings.IndexFunc(rule, func(r rune) bool {
		return r != '-' && r != '_' && !unicode.IsLetter(r) && !unicode.IsNumber(r)
	})
	fields := []string{rule}
	if separator >= 0 {
		_, size := utf8.DecodeRuneInString(rule[separator:])
		fields = strings.Split(rule, rule[separator:separator+size])
	}
	kind := strings.ToLower(fields[0])
	count := 3
	switch kind {
	case "guest", "host", "squash-guest", "squash-host", "map":
	case "forbid-guest":
		count = 2
	default:
		return idErrorf("Invalid ID map prefix %s", fields[0])
	}
	if len(fields)-1 != count {
		return idErrorf("Invalid ID map length (expected %d elements, got %d elements)", count, len(fields)-1)
	}
	var n [3]uint32
	for i, field := range fields[1:] {
		v, err := strconv.ParseUint(field, 10, 32)
		if err != nil {
			return idErrorf("Invalid value %s in ID map: it is no number from 0 to 4294967295", field)
		}
		n[i] = uint32(v)
	}
	switch kind {
	case "guest":
		return insert(&m.toHost, n[0], n[1], n[2], idShift)
	case "host":
		return insert(&m.toGuest, n[0], n[1], n[2], idShift)
	case "squash-guest":
		return insert(&m.toHost, n[0], n[1], n[2], idSquash)
	case "squash-host":
		return insert(&m.toGuest, n[0], n[1], n[2], idSquash)
	case "forbid-guest":
		return insert(&m.toHost, n[0], 0, n[1], idForbid)
	}
	if err := insert(&m.toHost, n[0], n[1], n[2], idShift); err != nil {
		return err
	}
	return insert(&m.toGuest, n[1], n[0], n[2], idShift)
}

// idErrorf makes an error in virtiofsd's words, which begin with a capital.
func idErrorf(format string, args ...any) error { return fmt.Errorf(format, args...) }

// insert adds a range of count ids to those of one direction.
func insert(ranges *[]idRange, first, to, count uint32, how idKind) error {
	if count == 0 {
		return idErrorf("Invalid value 0 in ID map: a range has one id at least")
	}
	r := idRange{first, first + (count - 1), to, how}
	end := to // of what ids become
	if how == idShift {
		end += count - 1
	}
	switch {
	case r.last < first || end < to:
		return errors.New("range overflow: ids end at 4294967295")
	case how != idForbid && end == math.MaxUint32:
		return errors.New("4294967295 means no id, and nothing can be translated to it")
	}
	i, _ := slices.BinarySearchFunc(*ranges, first, func(r idRange, id uint32) int {
		return cmp.Compare(r.last, id)
	})
	if i < len(*ranges) && (*ranges)[i].first <= r.last {
		return fmt.Errorf("it translates id %d, as an earlier rule does", max(first, (*ranges)[i].first))
	}
	*ranges = slices.Insert(*ranges, i, r)
	return nil
}

// host returns what an id of the guest is on the host. It fails with EPERM for forbidden
// ids.
func (m *IDMap) host(id uint32) (uint32, syscall.Errno) { return translate(m.toHost, id) }

// guest returns what an id of the host is to the guest.
func (m *IDMap) guest(id uint32) uint32 {
	id, _ = translate(m.toGuest, id) // nothing is forbidden in this direction
	return id
}

func translate(ranges []idRange, id uint32) (uint32, syscall.Errno) {
	for i := range ranges {
		r := &ranges[i]
		if id < r.first {
			break
		}
		if id > r.last {
			continue
		}
		switch r.how {
		case idForbid:
			return 0, unix.EPERM
		case idSquash:
			return r.to, 0
		default:
			return r.to + (id - r.first), 0
		}
	}
	return id, 0
}

// hostIDs returns what user and group of a request's caller are on the host, and stores
// its groups in the thread.
func (fs *FS) hostIDs(t *thread, c *fuse.Context) (uid, gid uint32, groups []uint32, e syscall.Errno) {
	if c.UID == fuse.NoID || c.GID == fuse.NoID { // to the kernel: leave unchanged (E.4.4)
		return 0, 0, nil, unix.EINVAL
	}
	if uid, e = fs.opt.TranslateUID.host(c.UID); e != 0 {
		return 0, 0, nil, e
	}
	if gid, e = fs.opt.TranslateGID.host(c.GID); e != 0 {
		return 0, 0, nil, e
	}
	if len(fs.opt.TranslateGID.toHost) == 0 || c.Groups == nil {
		return uid, gid, c.Groups, 0
	}
	if t.hostGroups == nil {
		t.hostGroups = make([]uint32, 0, 32) // nil would mean that none were sent
	}
	t.hostGroups = t.hostGroups[:0]
	for _, g := range c.Groups {
		if g, e = fs.opt.TranslateGID.host(g); e != 0 {
			return 0, 0, nil, e
		}
		t.hostGroups = append(t.hostGroups, g)
	}
	return uid, gid, t.hostGroups, 0
}
