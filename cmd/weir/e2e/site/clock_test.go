package site

import (
	bits "encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Namespaces share the machine's wall clock, and nothing of the product lets a test move it. So long runs build the unchanged product over a
// package time that adds a file's number of seconds to the wall clock and leaves the monotonic clock alone, which is what a step is.

// clockEnv names the file.
const clockEnv = "WEIR_SITE_CLOCK"

const steppedNow = `package time

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

var wallStep = func() *int64 {
	if name, ok := syscall.Getenv("` + clockEnv + `"); ok {
		if fd, err := syscall.Open(name, syscall.O_RDONLY, 0); err == nil {
			if page, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED); err == nil {
				return (*int64)(unsafe.Pointer(&page[0]))
			}
		}
	}
	return new(int64)
}()

func steppedNow() (sec int64, nsec int32, mono int64) {
	sec, nsec, mono = runtimeNow()
	return sec + atomic.LoadInt64(wallStep), nsec, mono
}
`

// overlay writes what -overlay of the go command takes, in dir, and returns its name.
func overlay(dir string) (string, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output() // of who builds the binary
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w", err)
	}
	std := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	source, err := os.ReadFile(filepath.Join(std, "time.go"))
	if err != nil {
		return "", err
	}
	const begin, end = "\nfunc Now() Time {\n", "\n}\n"
	before, now, found := strings.Cut(string(source), begin)
	now, after, whole := strings.Cut(now, end)
	patched := strings.Replace(now, "runtimeNow()", "steppedNow()", 1)
	if !found || !whole || patched == now {
		return "", fmt.Errorf("time.Now of %s is not the one that is known here: see how it reads the clock", runtime.Version())
	}
	files := map[string]string{filepath.Join(std, "time.go"): before + begin + patched + end + after, filepath.Join(std, "stepped.go"): steppedNow}
	replace := map[string]string{}
	for name, text := range files {
		here := filepath.Join(dir, filepath.Base(name))
		if err := os.WriteFile(here, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[name] = here
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "overlay.json")
	return name, os.WriteFile(name, list, 0o600)
}

// setClock puts the node's wall clock so far ahead of the machine's, or behind it, from now on.
func (n *node) setClock(ahead time.Duration) {
	n.t.Helper()
	f, err := os.OpenFile(n.clock, os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteAt(bits.NativeEndian.AppendUint64(nil, uint64(int64(ahead/time.Second))), 0)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// Wall clocks leap while nodes run and while they are off: leases and elections do not follow them, and nothing is deleted for the age that records seem to have.
func clockSteps(c *cluster, l *load) {
	const month, decades = 30 * 24 * time.Hour, 30 * 365 * 24 * time.Hour // of both records and committed offsets less is kept
	leader := c.victim()
	controller := c.controller()
	leader.setClock(month)
	l.flow(everybody)
	leader.setClock(-month)
	l.flow(everybody)
	controller.setClock(-decades)
	l.flow(everybody)
	controller.setClock(month)
	l.flow(everybody)
	for _, ahead := range []time.Duration{-decades, month} {
		n := c.victim()
		n.stop()
		n.setClock(ahead)
		n.start()
		n.awaitReady()
		if day := time.Now().UTC().Add(ahead).Format(time.DateOnly); !strings.Contains(tail(n.log.String(), 100), day) {
			c.t.Fatalf("%s was started with its clock %s off, and its log has no line of %s: the clock does not step", n.name(), ahead, day)
		}
		l.flow(everybody)
		c.awaitHealthy()
	}
	for _, n := range c.nodes {
		n.setClock(0)
	}
}
