// Package dice takes chance out of Go's runtime, in a copy of a few of its lines that only builds with this overlay see: in a bubble of testing/synctest, a program that runs on one
// thread then does the same each time, in every process. The simulators (cluster/sim) are built so, and a seed of theirs that fails can be run again.
//
// What is drawn in a bubble then follows from its clock alone, so that one draw more or less, as where a pool has something left, is not felt by the others:
//
//	select    which of several ready cases is taken
//	timers    which of several that are due at one instant fires first: Go draws that on purpose
//	maps      where a walk begins, and their seeds; the keys of all hashes are the same in every process
//	rand      what math/rand/v2 draws where it was not given a source: these are counted as well
//	schedule  no goroutine is interrupted, or handed a mutex out of turn, because a busy machine took long; turns are counted from the bubble's beginning
//
// A toolchain in which a line is not there any more is refused by name, not built by half.
package dice

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// patch is one place in the runtime.
type patch struct {
	file     string // below GOROOT/src
	old, new string // old is there once
}

var patches = []patch{
	{"runtime/synctest.go", "type synctestBubble struct {\n", `// chance is what is drawn at this instant.
//
//go:nosplit
func (b *synctestBubble) chance(what uint64) uint64 {
	z := uint64(b.now) + (what+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

type synctestBubble struct {
	drawn   uint64 // at the instant that is
	drawnAt int64
`},
	{"runtime/synctest.go", "		runqput(pp, bubble.main, true)\n", "		pp.schedtick = 0\n		runqput(pp, bubble.main, true)\n"},
	{"runtime/select.go", "		j := cheaprandn(uint32(norder + 1))\n", `		j := cheaprandn(uint32(norder + 1))
		if b := getg().bubble; b != nil {
			j = uint32(b.chance(uint64(norder)) % uint64(norder+1))
		}
`},
	{"runtime/time.go", "			t.rand = cheaprand()\n", "			t.rand = uint32(getg().bubble.chance(uint64(t.when)))\n"},
	{"runtime/rand.go", "func maps_rand() uint64 {\n", `func maps_rand() uint64 {
	if b := getg().bubble; b != nil {
		return b.chance(0)
	}
`},
	{"runtime/rand.go", "	mp := getg().m\n	c := &mp.chacha8\n", `	if b := getg().bubble; b != nil {
		if b.drawnAt != b.now {
			b.drawn, b.drawnAt = 0, b.now
		}
		b.drawn++
		return b.chance(b.drawn)
	}
	mp := getg().m
	c := &mp.chacha8
`},
	{"runtime/alg.go", "		hashkey[i] = uintptr(bootstrapRand())\n", "		hashkey[i] = uintptr(i)*0x9e3779b1 | 1\n"},
	{"runtime/alg.go", "		key[i] = bootstrapRand()\n", "		key[i] = uint64(i+1) * 0x9e3779b97f4a7c15\n"},
	{"internal/sync/mutex.go", "	starvationThresholdNs = 1e6\n", "	starvationThresholdNs = 1e15\n"},
	{"runtime/proc.go", "const forcePreemptNS = 10 * 1000 * 1000 // 10ms\n", "const forcePreemptNS = 1000 * 1000 * 1000 * 1000\n"},
}

// Overlay writes the copies into a directory, and returns the file that go's -overlay wants.
func Overlay(dir string) (file string, err error) {
	root, err := exec.Command("go", "env", "GOROOT", "GOVERSION").Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	lines := strings.Fields(string(root))
	if len(lines) != 2 {
		return "", fmt.Errorf("go env says %q: want GOROOT and GOVERSION", root)
	}
	texts := map[string]string{}
	for _, p := range patches {
		at := filepath.Join(lines[0], "src", p.file)
		if texts[at] == "" {
			b, err := os.ReadFile(at)
			if err != nil {
				return "", err
			}
			texts[at] = string(b)
		}
		if n := strings.Count(texts[at], p.old); n != 1 {
			return "", fmt.Errorf("%s: %s has %q %d times: internal/dice has to learn this toolchain", lines[1], at, p.old, n)
		}
		texts[at] = strings.Replace(texts[at], p.old, p.new, 1)
	}
	replace := map[string]string{}
	for at, text := range texts {
		to := filepath.Join(dir, filepath.Base(at)+".txt") // not a package of Go, wherever the directory is
		if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
			return "", err
		}
		replace[at] = to
	}
	b, err := json.MarshalIndent(map[string]any{"Replace": replace}, "", "\t")
	if err != nil {
		return "", err
	}
	file = filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, b, 0o644)
}
