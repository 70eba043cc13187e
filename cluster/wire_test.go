package cluster

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/rpc"
)

var update = flag.Bool("update", false, "rewrite testdata; read the difference before committing it")

// Nodes of two versions talk to each other during a rolling upgrade: what is sent keeps its form. A line may be added to the file, and a key
// to a message; no line may change.
func TestWireForms(t *testing.T) {
	part := wirePartition{bytes.Repeat([]byte{1}, 16), 2}
	messages := []any{
		proposeCall{[]byte{1, 2}},
		proposeAnswer{7, &meta.Registration{BrokerID: 1, BrokerEpoch: 2, Version: 3}, &meta.ProducerIDs{First: 4, Count: 5}},
		renewCall{1, 2, 3, true}, renewAnswer{4},
		feedCall{1, 2, 3, 4, 5, []feedPart{{part, 6, 7, 8, -1, 9, true, true, 0, 0}}, []feedPart{{wirePartition: part}}},
		feedAnswer{true, []feedNews{{part, feedFenced, 1, 2, 3, 4, 5, true, 6, 7, 8, 9, -1, 10, 0}}},
		appendCall{[]appendPart{{part, 3, []wireTerm{{part, 4}}}}}, appendAnswer{[]appendOutcome{{}, {3, "text"}}},
		readCall{part, 4, 5}, endsCall{[]wirePartition{part}, true, 6}, endsAnswer{[]int64{-1, 9}},
		logsCall{[]wirePartition{part}}, logsAnswer{1, []logTail{{part, 2, 3, 4}}},
		versionAnswer{7}, relayCall{bytes.Repeat([]byte{1}, 16), methodAppend, []byte{0xa0}, 5}, relayAnswer{[]byte{0xa0}, "text"},
		feedAnswer{false, []feedNews{{wirePartition: part, Stable: 16}}}, endTransactionCall{[]wireTerm{{part, 5}}, 1, 2, true, 3, 4, false},
		feedCall{Broker: 1, Epoch: 2, Session: 3, Seq: 4, Parts: []feedPart{{wirePartition: part, LastEpoch: -1, Behind: 11, PartitionEpoch: 12}}},
		endTransactionCall{[]wireTerm{{part, 5}}, 1, 2, true, 3, 4, true},
		restCall{[]restPart{{part, 6}}},
	}
	var got strings.Builder
	for _, m := range messages {
		b, err := rpc.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&got, "%T %s\n", m, hex.EncodeToString(b))
		back := reflect.New(reflect.TypeOf(m))
		if err := rpc.Decode(b, back.Interface()); err != nil || !reflect.DeepEqual(back.Elem().Interface(), m) {
			t.Errorf("%T comes back as %+v, %v", m, back.Elem().Interface(), err)
		}
	}
	for i, e := range remoteErrors {
		fmt.Fprintf(&got, "error %d %s\n", i+1, e)
	}
	path := filepath.Join("testdata", "wire.txt")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || got.String() != string(want) {
		t.Errorf("%v: got\n%s", err, got.String())
	}
}

// No bytes of a peer's make a handler panic.
func FuzzCalls(f *testing.F) {
	f.Add(uint16(methodFeed), []byte{0xa0}, []byte{})
	b, _ := onePartition(f, nil)
	p := &port{b: b, rooms: map[rpc.Method]rpc.Handler{}}
	f.Fuzz(func(t *testing.T, method uint16, control, raw []byte) {
		switch rpc.Method(method) {
		case methodStatus, methodPropose, methodVersion, methodRenew: // ask the quorum
			return
		}
		a, _ := p.handle(t.Context(), &rpc.Request{Method: rpc.Method(method), Control: control, Raw: raw})
		if a.Done != nil {
			a.Done()
		}
	})
}
