package posix

import "strings"

// A cell is one field of a table: an operation, a kind of object, and the outcome.
type cell struct {
	row, column, want string
}

// cells reads a table: a line with the names of the columns, and lines that begin with
// a row's name and have one word for each column. "-" is short for "ok", and "." leaves
// a field out, where the outcome is not for the file system to say.
func cells(table string) (list []cell) {
	var columns []string
	for line := range strings.Lines(table) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case columns == nil:
			columns = words
		default:
			for i, want := range words[1:min(len(words), 1+len(columns))] {
				column := columns[i]
				switch want {
				case ".":
				case "-":
					list = append(list, cell{words[0], column, "ok"})
				default:
					list = append(list, cell{words[0], column, want})
				}
			}
		}
	}
	return list
}
