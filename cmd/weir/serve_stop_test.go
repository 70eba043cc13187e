//go:build unix

package main

import (
	"bytes"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

// SIGTERM while a node reads its journal ends `weir serve` with exit code 0, without the rest being read first and without a
// ready line; the start after it finds everything that was acknowledged. // J5
func TestStopDuringRecovery(t *testing.T) {
	cfg := Defaults()
	cfg.Node.Data = t.TempDir()
	cfg.MQTT.Listen, cfg.MQTT.WS, cfg.Kafka.Listen, cfg.HTTP.Listen = "127.0.0.1:0", "", "127.0.0.1:0", ""
	cfg.Log.JournalFile = 8 << 20 // holds all there is: no checkpoint shortens the recovery
	mem := diskWith(t, cfg.Node.Data)
	n, stop := startNodeOn(t, cfg, mem)
	l := &ackLedger{acked: map[string]bool{}, enough: make(chan struct{}, 1)}
	const count = 2000
	if err := l.publish(n.addrOf("mqtt"), "dev", 1, false, count, 1000); err != nil {
		t.Fatal(err)
	}
	killed := mem.CrashClone(1, nil)
	stop()

	serve := func(disk vfs.FS, stopAt int64) (reads int64, out string) {
		ctx, restore := signal.NotifyContext(t.Context(), syscall.SIGTERM) // as main does
		defer restore()
		var seen atomic.Int64
		fault := vfs.NewFault(disk)
		fault.Inject(vfs.Rule{Ops: vfs.OpRead, Match: "*.wal", Hook: func(vfs.Op, string) {
			if seen.Add(1) != stopAt {
				return
			}
			if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
				t.Error(err)
			}
			<-ctx.Done() // the read goes on once the signal has arrived
		}})
		none := ""
		cmd := &serveCmd{Data: &cfg.Node.Data, MQTT: &cfg.MQTT.Listen, MQTTWS: &none, Kafka: &cfg.Kafka.Listen, HTTP: &none, disk: fault}
		var stdout bytes.Buffer
		err := cmd.Run(&Globals{Ctx: ctx, Out: &stdout, Err: &stdout})
		if code := exitCode(err); code != exitDone {
			t.Errorf("stopped at read %d: exit code %d: %v", stopAt, code, err)
		}
		return seen.Load(), stdout.String()
	}

	raft := filepath.Join(cfg.Node.Data, "raft") // bbolt's file lies on the real disk
	saved := t.TempDir()
	if err := os.CopyFS(saved, os.DirFS(raft)); err != nil {
		t.Fatal(err)
	}
	// How much a start reads that is not stopped: of a copy, since it leaves little to recover.
	var all atomic.Int64
	fault := vfs.NewFault(killed.CrashClone(1, nil))
	fault.Inject(vfs.Rule{Ops: vfs.OpRead, Match: "*.wal", Hook: func(vfs.Op, string) { all.Add(1) }})
	_, stop = startNodeOn(t, cfg, fault)
	total := all.Load()
	stop()
	if err := errors.Join(os.RemoveAll(raft), os.CopyFS(raft, os.DirFS(saved))); err != nil {
		t.Fatal(err)
	}

	for _, at := range []int64{1, total / 4, total / 2, total * 3 / 4} {
		reads, out := serve(killed, at)
		if reads < at || reads > at+total/5 { // the headers of the journal files, or the piece in hand
			t.Errorf("stopped at read %d of %d: %d in all", at, total, reads)
		}
		if out != "" {
			t.Errorf("stopped at read %d of %d: %s", at, total, out)
		}
	}
	n, stop = startNodeOn(t, cfg, killed)
	defer stop()
	stored, err := readWithKafka(t, n.addrOf("kafka"), defaultTopic)
	if err != nil {
		t.Fatal(err)
	}
	for payload := range l.acked {
		if stored[payload] != 1 {
			t.Errorf("%.10s was acknowledged and is in the log %d times", payload, stored[payload])
		}
	}
	if len(l.acked) != count {
		t.Errorf("%d of %d messages were acknowledged", len(l.acked), count)
	}
}
