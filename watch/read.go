package watch

import (
	"fmt"
	"io"
	"os"
	"syscall"
)

// BusyError says that a process has the file open for writing: what is in it may be half of what is meant.
type BusyError struct{ Path string }

func (e *BusyError) Error() string {
	return fmt.Sprintf("read file %q: a process has it open for writing; renaming a whole file over it is the safe way", e.Path)
}

// Read reads a regular file of at most max bytes. It does not wait: not for a writer of a pipe, and not for one of the file, which is a *BusyError where the system can tell.
func Read(path string, max int64) ([]byte, error) { return ReadChecked(path, max, nil) }

// ReadChecked is Read of a file that has to pass check, such as one of who can write it. What is checked is what is read:
// both use one descriptor.
func ReadChecked(path string, max int64, check func(*os.File) error) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // Opening a pipe would wait for its writer.
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read file %q: it is not a regular file", path)
	}
	if check != nil {
		if err := check(file); err != nil {
			return nil, fmt.Errorf("read file %q: %w", path, err)
		}
	}
	if info.Size() > max {
		return nil, tooLarge(path, max)
	}
	if beingWritten(file) {
		return nil, &BusyError{path}
	}
	content, err := io.ReadAll(io.LimitReader(file, max+1))
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	if int64(len(content)) > max {
		return nil, tooLarge(path, max)
	}
	return content, nil
}

func tooLarge(path string, max int64) error {
	return fmt.Errorf("read file %q: it is too large; legal are %d bytes", path, max)
}
