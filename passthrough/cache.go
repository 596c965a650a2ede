package passthrough

import (
	"fmt"
	"time"

	"vfiofs/fuse"
)

// A Cache is a policy: how much the guest may remember (fs-device.md G.2).
type Cache int

// The cache policies; CacheAuto is the default.
const (
	CacheAuto     Cache = iota // names for a second, file contents until mtime or size change
	CacheNever                 // nothing
	CacheMetadata              // names and attributes, no file contents
	CacheAlways                // everything: only the guest changes the directory
)

// cacheNames is a table: what each policy is called on the command line.
var cacheNames = [...]string{CacheAuto: "auto", CacheNever: "never", CacheMetadata: "metadata", CacheAlways: "always"}

// String returns the policy's name.
func (c Cache) String() string {
	if c < 0 || int(c) >= len(cacheNames) {
		return fmt.Sprintf("Cache(%d)", int(c))
	}
	return cacheNames[c]
}

// MarshalText implements encoding.TextMarshaler.
func (c Cache) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Cache) UnmarshalText(text []byte) error {
	if string(text) == "none" { // as virtiofsd has it
		text = []byte("never")
	}
	for i, name := range cacheNames {
		if name == string(text) {
			*c = Cache(i)
			return nil
		}
	}
	return fmt.Errorf("unknown cache policy %q (want never, metadata, auto or always)", text)
}

// A policy is what follows from a Cache.
type policy struct {
	valid       time.Duration // of names and attributes
	file, dir   fuse.OpenOutFlags
	readdirplus bool
	symlinks    bool // the guest keeps symlink targets
}

func (c Cache) policy() policy {
	const day = 24 * time.Hour
	switch c {
	case CacheNever:
		return policy{file: fuse.OpenDirectIO}
	case CacheMetadata:
		return policy{
			valid: day, file: fuse.OpenDirectIO, dir: fuse.OpenCacheDir | fuse.OpenKeepCache,
			readdirplus: true, symlinks: true,
		}
	case CacheAlways:
		return policy{
			valid: day, file: fuse.OpenKeepCache, dir: fuse.OpenCacheDir | fuse.OpenKeepCache,
			readdirplus: true, symlinks: true,
		}
	}
	return policy{valid: time.Second, readdirplus: true}
}
