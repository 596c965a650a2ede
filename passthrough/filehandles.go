package passthrough

import "fmt"

// FileHandles says how nodes that have no descriptor come back (fs-device.md F.10).
type FileHandles int

// The modes; HandlesPrefer is the default.
const (
	HandlesPrefer    FileHandles = iota // by file handle where that works, else by name
	HandlesNever                        // by name
	HandlesMandatory                    // by file handle; what has none is refused
)

// handleNames is a table: what each mode is called on the command line.
var handleNames = [...]string{HandlesPrefer: "prefer", HandlesNever: "never", HandlesMandatory: "mandatory"}

// String returns the mode's name.
func (m FileHandles) String() string {
	if m < 0 || int(m) >= len(handleNames) {
		return fmt.Sprintf("FileHandles(%d)", int(m))
	}
	return handleNames[m]
}

// MarshalText implements encoding.TextMarshaler.
func (m FileHandles) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *FileHandles) UnmarshalText(text []byte) error {
	for i, name := range handleNames {
		if name == string(text) {
			*m = FileHandles(i)
			return nil
		}
	}
	return fmt.Errorf("unknown use of file handles %q (want never, prefer or mandatory)", text)
}
