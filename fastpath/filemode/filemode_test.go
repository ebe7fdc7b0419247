package filemode

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestCheckFolder(t *testing.T) {
	for mode, want := range map[fs.FileMode]string{
		0o700: "", 0o755: "", 0o770: "", 0o775: "", 0o777 | fs.ModeSticky: "",
		0o777: "got mode 0777", 0o702: "got mode 0702", 0o777 | fs.ModeSetgid: "got mode 0777",
	} {
		folder := filepath.Join(t.TempDir(), "run")
		below := filepath.Join(folder, "workers")
		if err := os.MkdirAll(below, 0o700); err != nil {
			t.Fatal(err)
		}
		link := folder + ".link" // A link in a safe folder to one that is not.
		if err := os.Symlink(below, link); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(folder, mode); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{folder, below, link} { // Who can rename a folder on the way replaces all below it.
			err := CheckFolder(path)
			if (err == nil) != (want == "") || err != nil && !(strings.Contains(err.Error(), want) && strings.Contains(err.Error(), "sticky")) {
				t.Errorf("%v %s: %v, want %q", mode, path, err, want)
			}
		}
	}
	if CheckFolder(filepath.Join(t.TempDir(), "none")) == nil {
		t.Error("a folder that is not there passes")
	}
}

// TestFolderOfLinks checks the folder that a symbolic link is in: who can replace the link chooses the folder.
func TestFolderOfLinks(t *testing.T) {
	open, safe := filepath.Join(t.TempDir(), "open"), t.TempDir()
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(open, "workers")
	if err := os.Symlink(safe, link); err != nil {
		t.Fatal(err)
	}
	if err := CheckFolder(link); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if CheckFolder(link) == nil {
		t.Error("a link in a folder of mode 0777 passes")
	}
}

type info struct {
	mode fs.FileMode
	gid  int
}

func (i info) Name() string       { return "" }
func (i info) Size() int64        { return 0 }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return true }
func (i info) Sys() any           { return &syscall.Stat_t{Gid: uint32(i.gid)} }

func TestWritableByOthers(t *testing.T) {
	foreign := os.Getegid() + 1
	for inGroup(foreign) {
		foreign++
	}
	for _, tt := range []struct {
		mode fs.FileMode
		gid  int
		want bool
	}{
		{0o600, foreign, false},
		{0o644, foreign, false},
		{0o440, foreign, false},
		{0o640, foreign, false},
		{0o660, os.Getegid(), false},
		{0o664, os.Getegid(), false},
		{0o660, foreign, true},
		{0o664, foreign, true},
		{0o420, foreign, true},
		{0o666, os.Getegid(), true},
		{0o602, os.Getegid(), true},
	} {
		if got := WritableByOthers(info{tt.mode, tt.gid}); got != tt.want {
			t.Errorf("%04o of group %d: %t", tt.mode, tt.gid, got)
		}
	}
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	for _, gid := range groups { // Such as fsGroup of Kubernetes.
		if WritableByOthers(info{0o660, gid}) {
			t.Errorf("group %d of the process is foreign", gid)
		}
	}
}

func TestCheckFile(t *testing.T) {
	for mode, want := range map[fs.FileMode]bool{
		0o600: true, 0o400: true, 0o440: true, 0o640: true, 0o644: true, 0o660: true, 0o664: true,
		0o666: false, 0o602: false, 0o777: false,
	} {
		path := filepath.Join(t.TempDir(), "keys.yaml")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		link := path + ".link" // As Kubernetes mounts files: the mode of the file counts.
		if err := os.Symlink(path, link); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{path, link} {
			f, err := os.Open(p)
			if err != nil {
				t.Fatal(err)
			}
			if err := CheckFile(f); (err == nil) != want || err != nil && !strings.Contains(err.Error(), "chmod o-w") {
				t.Errorf("%04o: %v", mode, err)
			}
			f.Close()
		}
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if CheckFile(f) == nil {
		t.Error("a closed file passes")
	}
}

// TestFilesOfForeignGroups needs a privilege: only root gives files to groups that it is not in.
func TestFilesOfForeignGroups(t *testing.T) {
	foreign := os.Getegid() + 1
	for inGroup(foreign) {
		foreign++
	}
	path := filepath.Join(t.TempDir(), "keys.yaml")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, -1, foreign); err != nil {
		if os.Geteuid() == 0 {
			t.Fatal(err)
		}
		return // TestWritableByOthers shows the rule without a file.
	}
	for mode, want := range map[fs.FileMode]string{0o640: "", 0o660: "chmod g-w", 0o664: "chmod g-w", 0o666: "chmod o-w"} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckFile(f); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%04o: %v, want %q", mode, err, want)
		}
		f.Close()
	}
}
