package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log/vfs"
)

func mustIdentity(t *testing.T) *identity {
	t.Helper()
	id, err := newIdentity(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestIdentityIsKept(t *testing.T) {
	fsys := vfs.NewMem()
	if err := fsys.MkdirAll("d"); err != nil {
		t.Fatal(err)
	}
	if err := fsys.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	if id, err := loadIdentity(fsys, "d"); id != nil || err != nil {
		t.Fatalf("empty directory: %v %v", id, err)
	}
	id := mustIdentity(t)
	if _, err := id.present(rand.Reader); err != nil {
		t.Fatal(err)
	}
	if err := id.save(fsys, "d"); err != nil {
		t.Fatal(err)
	}
	// E5: durable when save returned.
	after := fsys.CrashClone(0, mathrand.New(mathrand.NewPCG(1, 2)))
	got, err := loadIdentity(after, "d")
	if err != nil || !reflect.DeepEqual(got, id) {
		t.Errorf("after a power cut %+v %v, want %+v", got, err, id)
	}
}

// Every bit flipped, and every cut: an error, never another identity.
func TestIdentityDamage(t *testing.T) {
	fsys := vfs.NewMem()
	id := mustIdentity(t)
	if err := id.save(fsys, "/"); err != nil {
		t.Fatal(err)
	}
	whole, err := vfs.ReadFile(fsys, "/"+identityFile, identityMax)
	if err != nil {
		t.Fatal(err)
	}
	try := func(b []byte) {
		if err := vfs.WriteFile(fsys, "/"+identityFile, b); err != nil {
			t.Fatal(err)
		}
		if got, err := loadIdentity(fsys, "/"); err == nil && !reflect.DeepEqual(got, id) {
			t.Errorf("%x became %+v", b, got)
		}
	}
	for i := range whole {
		for bit := range 8 {
			b := bytes.Clone(whole)
			b[i] ^= 1 << bit
			try(b)
		}
		try(whole[:i])
	}
}

// E5: the confirmed nonce is the last to go, however often a start ends before it registered.
func TestIdentityKeepsTheConfirmedNonce(t *testing.T) {
	id := mustIdentity(t)
	first, err := id.present(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id.confirm(first)
	var last meta.UUID
	for range 3 * meta.MaxNonces {
		if last, err = id.present(rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	if len(id.Nonces) > meta.MaxNonces || id.Nonces[0] != first || !slices.Contains(id.Nonces, last) {
		t.Errorf("%d nonces, confirmed in front %t, newest held %t", len(id.Nonces), id.Nonces[0] == first, slices.Contains(id.Nonces, last))
	}
}

// The stored form does not change by accident: a node must know itself after an upgrade.
func TestIdentityForm(t *testing.T) {
	fsys := vfs.NewMem()
	id := &identity{ClusterID: "cluster", UUID: meta.UUID{1}, Nonces: []meta.UUID{{2}}, Confirmed: true, Opened: 9}
	if err := id.save(fsys, "/"); err != nil {
		t.Fatal(err)
	}
	b, err := vfs.ReadFile(fsys, "/"+identityFile, identityMax)
	if err != nil {
		t.Fatal(err)
	}
	const want = "83011a1e8d891f5833a50167636c757374657202500100000000000000000000000000000003815002000000000000000000000000000000040905f5"
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// E5, E8: a process that finds the end of the one before unclean, and stops without having registered, leaves a clean marker; it must not be taken for that
// of the process that the controller knows, which may have lost what its disk had only promised.
func TestCleanEndIsOneProcessesOwn(t *testing.T) {
	cfg := testConfig(t.TempDir())
	b := openBroker(t, cfg)
	mustCreate(t, b, TopicSpec{Name: "a", Partitions: 1})
	closeBroker(t, b)
	epochOf := func() int64 {
		t.Helper()
		id, err := loadIdentity(vfs.OS{}, cfg.DataDir)
		if err != nil {
			t.Fatal(err)
		}
		return id.Epoch
	}
	unregistered := func() {
		t.Helper()
		cfg := cfg
		cfg.StartTimeout = time.Nanosecond
		if b, err := Open(within(t), cfg); err == nil {
			_ = b.Close(context.Background())
			t.Skip("it has registered in no time")
		}
		if _, err := os.Stat(filepath.Join(cfg.DataDir, "clean")); err != nil {
			t.Fatalf("no clean marker: %v", err)
		}
	}
	known := b.Epoch()
	unregistered()
	if got := epochOf(); got != known {
		t.Errorf("after a clean end the marker is of %d, want %d: that process lost nothing", got, known)
	}
	remove(t, cfg.DataDir, "clean") // as if the power had been cut
	unregistered()
	if got := epochOf(); got != 0 {
		t.Errorf("after an unclean end the marker is of %d", got)
	}
}
