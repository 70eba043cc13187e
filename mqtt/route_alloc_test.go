//go:build !race

// Under the race detector sync.Pool forgets on purpose, so allocations are counted in the runs without it.

package mqtt

import (
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/log"
)

func TestRouteAllocatesNothing(t *testing.T) {
	r := mustRouter(t, exampleRoutes)
	var s RouteScratch
	payload, err := cbor.Marshal(map[string]any{"ts": int64(1700000000123), "x": 1.5, "name": "bearing"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ topic, payload string }{
		{"any/thing", "x"}, {"plain/1/2", "x"}, {"json/1", `{"id":"a","v":[1,2]}`}, {"plants/a/machines/b/vibration", string(payload)},
	} {
		topic := []byte(tt.topic)
		in := PublishInfo{ClientID: []byte("dev"), UserProps: []log.Header{{Key: []byte("site"), Value: []byte("s7")}}, Payload: []byte(tt.payload)}
		if n := testing.AllocsPerRun(100, func() {
			if _, err := r.Match(topic, &s, &in); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", tt.topic, n)
		}
	}
}
