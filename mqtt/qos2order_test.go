package mqtt

import (
	"slices"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/mqtt/packet"
)

// What was published first stands first, also where it is known not to be in the log only later than what was published behind it. M3 M4
func TestQoS2RepeatIsNotOvertaken(t *testing.T) {
	r := startRig(t, nil)
	p, _ := r.v5("dev", lasting(1000))
	p.publish("warm", "up", 1, 1)
	p.expect(0x40, 2, 0, 1)
	eventually(t, "the session is stored", func() bool { return r.sessions.has("dev") })
	r.log.set(errFakeDown, false)
	p.publish("a", "first", 2, 7)
	eventually(t, "the intent is stored", func() bool { return r.sessions.has("dev\x00i") })
	sessions, retained := r.sessions.clone(), r.retained.clone()
	p.c.Close()
	r.stop()
	r.log.mu.Lock()
	r.log.watchers = nil
	r.log.mu.Unlock()
	r.log.set(nil, true)

	r = startOn(t, r.log, sessions, retained, nil)
	other, _ := r.v5("other", lasting(0))
	other.publish("a", "held up", 1, 1)
	other.quiet()
	p, _ = r.v5("dev", lasting(1000))
	p.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte("first"), QoS: 2, ID: 7, Dup: true}, packet.V5)...)
	p.publish("a", "second", 2, 8)
	eventually(t, "the first is searched for, and the second has its intent", func() bool {
		var list []intentRecord
		if v, ok := r.sessions.get("dev\x00i"); ok {
			if err := cbor.Unmarshal([]byte(v), &list); err != nil {
				t.Fatal(err)
			}
		}
		return r.log.settling("telemetry") > 0 && len(list) == 2
	})
	p.quiet()
	r.log.set(nil, false)
	p.expect(0x50, 2, 0, 7)
	p.expect(0x50, 2, 0, 8)
	var got []string
	for _, rec := range r.log.records(t, "telemetry") {
		if string(rec.Key) == "dev" {
			got = append(got, string(rec.Value))
		}
	}
	if want := []string{"up", "first", "second"}; !slices.Equal(got, want) {
		t.Errorf("the log has %q, want %q", got, want)
	}
}
