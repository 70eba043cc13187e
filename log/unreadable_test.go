package log

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

// E7: a sector that the disk cannot read, and a file that is gone, are damage as wrong bytes are: most media tell of a rotten cell so. What passes by itself
// is none.
func TestWhatTheDiskCannotReadIsDamage(t *testing.T) {
	for name, c := range map[string]struct {
		rule   vfs.Rule
		damage bool
	}{
		"an unreadable sector":  {vfs.Rule{Ops: vfs.OpRead, Err: &syscallError{syscall.EIO}}, true},
		"a file system's check": {vfs.Rule{Ops: vfs.OpRead, Err: &syscallError{syscall.EBADMSG}}, true},
		"a missing file":        {vfs.Rule{Ops: vfs.OpOpen, Err: &syscallError{syscall.ENOENT}}, true},
		"no descriptor left":    {vfs.Rule{Ops: vfs.OpOpen, Err: &syscallError{syscall.EMFILE}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			disk, dir, batches := placedLog(t, PartitionConfig{SegmentBytes: 2 * kib}, 30, 30)
			faulty := vfs.NewFault(disk)
			l := mustOpen(t, testConfig(faulty, "/d", newCommits()))
			defer l.Close()
			p := l.Partition(testID(0))
			c.rule.Match = filepath.Base(batches[0].file)
			in := faulty.Inject(c.rule)
			_, err := p.Read(0, p.LogEnd(), kib, nil)
			if err == nil || in.Hits() == 0 {
				t.Fatalf("read of %s: %v", dir, err)
			}
			if errors.Is(err, ErrCorrupt) != c.damage || !errors.Is(err, c.rule.Err) {
				t.Errorf("%v: damage %t, want %t", err, !c.damage, c.damage)
			}
		})
	}
}

// syscallError is one as package os gives it.
type syscallError struct{ errno syscall.Errno }

func (e *syscallError) Error() string { return "read: " + e.errno.Error() }
func (e *syscallError) Unwrap() error { return e.errno }
