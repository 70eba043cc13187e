package site

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// insideEnv is set in the process that runs the tests, and names the binary under test.
const insideEnv = "WEIR_SITE_BINARY"

// outsideReason says why there are no namespaces; empty when there are.
var outsideReason string

// TestMain builds the binary and runs the tests in a child that has its own network, mounts and process ids. The kernel
// ends all of it with the child, and the child with this process.
func TestMain(m *testing.M) {
	if os.Getenv(insideEnv) == "" {
		os.Exit(outside(m))
	}
	if err := settle(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func outside(m *testing.M) int {
	dir, err := os.MkdirTemp("", "weir-site-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "weir")
	build := exec.Command("go", "build", "-o", dir+"/")
	if soak() {
		clock, err := overlay(dir)
		if err != nil {
			fmt.Fprintln(os.Stderr, "build a binary whose wall clock steps:", err)
			return 1
		}
		build.Args = append(build.Args, "-overlay", clock)
	}
	build.Args = append(build.Args, "github.com/weir-io/weir/cmd/weir", "github.com/weir-io/weir/cmd/weir-sim")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the binary: %v\n%s", err, out)
		return 1
	}
	runtime.LockOSThread() // the child dies with the thread that made it
	child := exec.Command("/proc/self/exe", os.Args[1:]...)
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.Env = append(os.Environ(), insideEnv+"="+bin, "TMPDIR="+dir)
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL,
	}
	if err := child.Start(); err != nil {
		outsideReason = err.Error()
		return m.Run()
	}
	var exit *exec.ExitError
	switch err := child.Wait(); {
	case errors.As(err, &exit):
		return max(1, exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// settle makes the mounts private, and /proc and /run those of this world.
func settle() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	return nil
}

// need skips the test when something is missing, or fails it where everything must run.
func need(t *testing.T, ok bool, what string) {
	t.Helper()
	if ok {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s, and with CI=true nothing may be skipped: see .ci/clients-deps", what)
	}
	t.Skipf("%s", what)
}

func needCommand(t *testing.T, name string) {
	t.Helper()
	_, err := exec.LookPath(name)
	need(t, err == nil, name+" is not installed: run `make clients-deps`")
}

func python(t *testing.T) string {
	t.Helper()
	_, file, _, _ := runtime.Caller(0)
	path := filepath.Join(filepath.Dir(file), "..", "..", "..", "..", ".cache", "venv", "bin", "python")
	_, err := os.Stat(path)
	need(t, err == nil, "paho and librdkafka for Python are not installed: run `make clients-deps`")
	return path
}
