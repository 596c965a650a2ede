package jail

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"vfiofs/internal/idmap"
)

// subordinate returns a map of own to 0 and of the ids that the file lends to one of
// names from 1 on, or nil if it lends none.
func subordinate(path string, names []string, own uint32) idmap.Map {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return parseSubids(string(text), names, own)
}

// parseSubids reads lines of "name:first:count" (subuid(5)). Lines that make no sense are
// those of others.
func parseSubids(text string, names []string, own uint32) idmap.Map {
	values := []string{idmap.Extent{Inside: 0, Outside: own, Count: 1}.String()}
	next := uint64(1)
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) != 3 || !slices.Contains(names, fields[0]) {
			continue
		}
		first, err1 := strconv.ParseUint(fields[1], 10, 32)
		count, err2 := strconv.ParseUint(fields[2], 10, 32)
		if err1 != nil || err2 != nil || next+count >= 1<<32 {
			continue
		}
		extent := idmap.Extent{Inside: uint32(next), Outside: uint32(first), Count: uint32(count)}
		if _, err := idmap.Parse(append(slices.Clone(values), extent.String())...); err != nil {
			continue
		}
		values = append(values, extent.String())
		next += count
	}
	if len(values) == 1 {
		return nil
	}
	m, _ := idmap.Parse(values...) // each of them was parsed
	return m
}
