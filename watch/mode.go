package watch

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// CheckMode returns an error if users of the machine other than the file's owner and group may write it: what it decides on,
// such as who may call, would be theirs to decide. A file on a file system that is mounted read-only may have any mode.
func CheckMode(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("check mode: %w", err)
	}
	if info.Mode().Perm()&0o002 == 0 {
		return nil
	}
	var fs unix.Statfs_t
	if unix.Statfs(path, &fs) == nil && fs.Flags&unix.ST_RDONLY != 0 {
		return nil
	}
	return fmt.Errorf("check mode of file %q: must not be writable by other users, got %04o; mend it with: chmod o-w", path, info.Mode().Perm())
}

// Guarded returns a Load that refuses a file that CheckMode refuses.
func Guarded(path string, load func(content []byte) error) func(content []byte) error {
	return func(content []byte) error {
		if err := CheckMode(path); err != nil {
			return err
		}
		return load(content)
	}
}
