// Package filemode checks that other users of the machine cannot change files and folders that the engine relies on.
package filemode

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// CheckFolder returns an error if a user other than this process's own and root can remove or replace the entries of
// folder, or one of the folders on the way to it: such a user can take a worker's socket away. A folder is safe if its
// owner is this user or root, and others either cannot write it or it is sticky, as /tmp is. Others are all users, and
// the members of a group that the process is not in.
func CheckFolder(folder string) error {
	absolute, err := filepath.Abs(folder)
	if err != nil {
		return fmt.Errorf("check folder %q: %w", folder, err)
	}
	real, err := filepath.EvalSymlinks(absolute)
	if err != nil {
		return fmt.Errorf("check folder %q: %w", folder, err)
	}
	for _, path := range [...]string{absolute, real} { // The folders of symbolic links count as those of their targets.
		for {
			if err := checkFolder(path); err != nil {
				return fmt.Errorf("check folder %q: %w", folder, err)
			}
			parent := filepath.Dir(path)
			if parent == path {
				break
			}
			path = parent
		}
	}
	return nil
}

// CheckFile returns an error if other users can write the open file: what it decides on, such as who is let in, would be
// theirs to decide. A file on a file system that is mounted read-only can have any mode.
func CheckFile(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !WritableByOthers(info) {
		return nil
	}
	var file unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &file) == nil && file.Flags&unix.ST_RDONLY != 0 {
		return nil
	}
	mode := info.Mode().Perm()
	if mode&0o002 != 0 {
		return fmt.Errorf("must not be writable by other users, got mode %04o; mend it with: chmod o-w", mode)
	}
	return fmt.Errorf("must not be writable by a group that this process is not in, got mode %04o; mend it with: chmod g-w", mode)
}

func checkFolder(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("its owner cannot be read on this system")
	}
	if own := os.Geteuid(); owner.Uid != 0 && int(owner.Uid) != own {
		return fmt.Errorf("the owner of %q must be user %d or root, got user %d", path, own, owner.Uid)
	}
	if info.Mode()&fs.ModeSticky == 0 && WritableByOthers(info) {
		return fmt.Errorf("%q must not be writable by other users without the sticky bit, got mode %04o", path, info.Mode().Perm())
	}
	return nil
}

// WritableByOthers reports whether the mode of a file or folder allows other users than its owner to write it: all users,
// or the members of a group that this process is not in.
func WritableByOthers(info fs.FileInfo) bool {
	mode := info.Mode().Perm()
	if mode&0o002 != 0 {
		return true
	}
	if mode&0o020 == 0 {
		return false
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	return !ok || !inGroup(int(owner.Gid))
}

// inGroup reports whether gid is the process's group or one of its supplementary groups.
func inGroup(gid int) bool {
	if gid == os.Getegid() {
		return true
	}
	groups, err := os.Getgroups()
	return err == nil && slices.Contains(groups, gid)
}
