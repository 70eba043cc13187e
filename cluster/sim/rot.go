package sim

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/weir-io/weir/log/vfs"
)

// rot flips a bit in the middle of what a journal file holds, while nothing runs: entries of later commits follow, so that it is no torn tail, and
// must not be taken for one (J2). What was lost by it nobody promises to have; that nobody goes on as if it had never been is promised.
func (n *node) rot(r *rand.Rand) {
	n.s.mu.Lock()
	mem := n.mem
	idle := n.run == nil && n.broken == nil
	n.s.mu.Unlock()
	dir := filepath.Join(dataDir, "journal")
	names, err := mem.ReadDir(dir)
	if err != nil || !idle {
		return
	}
	for range 4 {
		name := filepath.Join(dir, names[r.IntN(len(names))].Name())
		b, err := vfs.ReadFile(mem, name, 1<<20)
		if err != nil || len(b) < 8<<10 {
			continue
		}
		const first, salt = 4 << 10, 4<<10 + 16    // of the first entry, and in it
		used := bytes.LastIndex(b, b[salt:salt+8]) // what an earlier use of the file has left is not in use
		if used < 2*first {
			continue
		}
		at := first + r.IntN(used/2-first/2) // entries of later commits follow
		if flip(mem, name, b, at) == nil {
			n.s.mu.Lock()
			n.lied = true
			n.s.mu.Unlock()
			n.s.trace.add("n%d: a bit of %s flips at %d of %d", n.i, name, at, used)
			return
		}
	}
}

func flip(mem *vfs.Mem, name string, b []byte, at int) error {
	f, err := mem.OpenFile(name, os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{b[at] ^ 4}, int64(at)); err != nil {
		return err
	}
	return f.Sync()
}
