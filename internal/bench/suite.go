package bench

import (
	"fmt"
	"strconv"
	"strings"
)

// suite is what is measured when nothing is asked for, with depths.
var suite = [...]struct {
	workload string
	depths   []int
}{
	{"null", []int{1, 32}},
	{"getattr", []int{1, 32}},
	{"statfs", []int{8}},
	{"lookup", []int{1, 8}},
	{"lookup-miss", []int{1, 8}},
	{"lookup+forget", []int{1, 8}},
	{"getxattr-miss", []int{8}},
	{"open+release", []int{1, 8}},
	{"create+unlink", []int{1, 8}},
	{"mkdir+rmdir", []int{1}},
	{"walk", []int{1, 8}},
	{"readdir", []int{1}},
	{"readdir-changed", []int{1}},
	{"readdirplus", []int{1}},
	{"rand-read-4k", []int{1, 4, 32}},
	{"rand-write-4k", []int{1, 32}},
	{"seq-read-128k", []int{1, 4}},
	{"seq-write-128k", []int{1, 4}},
	{"seq-read-1m", []int{1, 4}},
	{"seq-write-1m", []int{1, 4}},
	{"mixed", []int{1, 8}},
}

// quick is the suite of a smoke test.
var quick = [...]string{"null@1", "getattr@32", "lookup+forget@8", "create+unlink@1", "walk@8", "readdirplus@1", "rand-read-4k@32", "seq-write-1m@4", "mixed@8"}

// Suite returns the cases of a full or of a quick run, for each kind of client.
func Suite(short bool, clients ...Client) []Case {
	var list []string
	if short {
		list = quick[:]
	} else {
		for _, s := range suite {
			list = append(list, s.workload)
		}
	}
	var cases []Case
	for _, client := range clients {
		for _, name := range list {
			c, err := ParseCases(name, client)
			if err != nil {
				panic(err) // the tables are wrong
			}
			cases = append(cases, c...)
		}
	}
	return cases
}

// ParseCases parses WORKLOAD, WORKLOAD@DEPTH or WORKLOAD@DEPTHxQUEUES, for a kind of
// client. Without a depth it means those of the suite, or 1 and 8.
func ParseCases(text string, client Client) ([]Case, error) {
	name, load, ok := strings.Cut(text, "@")
	if _, err := find(name); err != nil {
		return nil, err
	}
	if !ok {
		depths := []int{1, 8}
		for _, s := range suite {
			if s.workload == name {
				depths = s.depths
			}
		}
		var cases []Case
		for _, d := range depths {
			cases = append(cases, Case{name, d, 1, client})
		}
		return cases, nil
	}
	depth, queues, many := strings.Cut(load, "x")
	if !many {
		queues = "1"
	}
	d, err1 := strconv.Atoi(depth)
	q, err2 := strconv.Atoi(queues)
	if err := firstError(err1, err2); err != nil {
		return nil, fmt.Errorf("%q: want WORKLOAD@DEPTH or WORKLOAD@DEPTHxQUEUES, for example rand-read-4k@32x4", text)
	}
	return []Case{{name, d, q, client}}, nil
}
