package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The ARM binaries that `make cross` builds serve under emulation: publish with QoS 1, read it back with kcat.
func TestARMBinariesServe(t *testing.T) {
	pub := needCommand(t, "mosquitto_pub")
	for _, board := range []struct{ arch, arm, emulator string }{
		{"arm", "6", "qemu-arm-static"}, {"arm", "7", "qemu-arm-static"}, {"arm64", "", "qemu-aarch64-static"},
	} {
		t.Run(board.arch+board.arm, func(t *testing.T) {
			emulator := needCommand(t, board.emulator)
			bin := filepath.Join(t.TempDir(), "weir")
			build := exec.Command("go", "build", "-o", bin, "github.com/weir-io/weir/cmd/weir")
			build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+board.arch, "GOARM="+board.arm)
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("cross build: %v\n%s", err, out)
			}
			n := &node{t: t, bin: []string{emulator, bin}, dir: t.TempDir()}
			n.start()
			t.Cleanup(n.stop)
			run(t, "", pub, "-h", "127.0.0.1", "-p", n.mqttPort(), "-i", "board", "-q", "1", "-t", "t", "-m", "hello from "+board.arch)
			if got := kcatRead(t, n, "telemetry", "%k %s"); len(got) != 1 || got[0] != "board hello from "+board.arch {
				t.Errorf("kcat read %q", got)
			}
		})
	}
}
