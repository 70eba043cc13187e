package site

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// disk is a file system of its own. On ext4 the power can be taken from it.
type disk struct {
	t     *testing.T
	image string
	dir   string
}

const diskBytes = 1 << 30

func newDisk(t *testing.T, name string) *disk {
	t.Helper()
	for _, c := range []string{"mkfs.ext4", "mount", "umount", "fsfreeze"} {
		needCommand(t, c)
	}
	base := t.TempDir()
	d := &disk{t, filepath.Join(base, name+".img"), filepath.Join(base, name)}
	f, err := os.Create(d.image)
	if err == nil {
		err = f.Truncate(diskBytes)
		_ = f.Close()
	}
	if err == nil {
		err = os.Mkdir(d.dir, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	d.run("mkfs.ext4", "-q", "-m", "0", "-O", "^resize_inode", d.image)
	d.mount()
	t.Cleanup(d.unmount)
	return d
}

func (d *disk) run(name string, args ...string) {
	d.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

func (d *disk) mount()   { d.t.Helper(); d.run("mount", "-o", "loop", d.image, d.dir) }
func (d *disk) unmount() { d.t.Helper(); d.run("umount", d.dir) }

// freeze has writes wait until thaw, or the end of the test: nothing that waits for the disk can be killed.
func (d *disk) freeze() {
	d.t.Helper()
	d.run("fsfreeze", "-f", d.dir)
	d.t.Cleanup(func() { _ = exec.Command("fsfreeze", "-u", d.dir).Run() })
}

func (d *disk) thaw() { d.t.Helper(); d.run("fsfreeze", "-u", d.dir) }

// cutPower ends the file system as it stands: what was not synced never comes to the device. The node has to be killed and the disk mounted again.
func (d *disk) cutPower() {
	d.t.Helper()
	const shutdown, noFlush = 0x8004587d, 2 // EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH
	f, err := os.Open(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	flags := uint32(noFlush)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), shutdown, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		d.t.Fatalf("take the power from %s: %v", d.dir, errno)
	}
}
