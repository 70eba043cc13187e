package cluster

import (
	"errors"
	"testing"

	"github.com/weir-io/weir/log"
)

// Close answers what was appended before it (E8), and refuses what comes later.
func TestCloseCommitsWhatWasAppended(t *testing.T) {
	cfg := testConfig(t.TempDir())
	b := openBroker(t, cfg)
	p := mustCreate(t, b, TopicSpec{Name: "a", Partitions: 1})[0]
	a := newAcks()
	for i := range uint64(1000) {
		if err := p.Append(&log.Record{Value: []byte("x")}, a, i); err != nil {
			t.Fatal(err)
		}
	}
	closeBroker(t, b)
	if err := p.Append(&log.Record{Value: []byte("late")}, a, 1000); !errors.Is(err, ErrClosed) || !Transient(err) {
		t.Errorf("append after close: %v", err)
	}
	a.await(t, 1000)
	for i, err := range a.errs {
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
	}
	b = openBroker(t, cfg)
	if got := len(readAll(t, partitionsOf(t, b, b.Image().Topic("a"))[0])); got != 1000 {
		t.Errorf("%d records after a restart", got)
	}
}
