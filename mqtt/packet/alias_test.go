package packet

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// A frame given an alias afterwards is the frame encoded with it, over every boundary of both lengths.
func TestAppendAliased(t *testing.T) { // MQTT5 [MQTT-1.5.5-1] [MQTT-3.3.2-1]
	for _, p := range samples {
		p.TopicAlias = 0
		for _, pad := range []int{0, 100, 110, 115, 116, 117, 118, 119, 120, 121, 122, 123, 124, 125, 126, 127, 128, 16250, 16370, 16380, 16384} {
			p.Correlation, p.Payload = nil, bytes.Repeat([]byte("x"), pad)
			if pad%2 == 0 { // the properties grow instead
				p.Correlation, p.Payload = p.Payload, nil
			}
			frame := AppendPublish(nil, &p, V5)
			if got := PublishTopic(frame); !bytes.Equal(got, p.Topic) {
				t.Fatalf("topic %q of %q", got, p.Topic)
			}
			for _, bare := range []bool{false, true} {
				want := p
				want.TopicAlias = 7
				if bare {
					want.Topic = nil
				}
				out, idAt := AppendAliased([]byte("before"), frame, 7, bare)
				out = out[len("before"):]
				if len(out) != want.Size(V5) || len(out) > len(frame)+AliasOverhead {
					t.Errorf("%d bytes from %d, want %d", len(out), len(frame), want.Size(V5))
				}
				var got Publish
				if err := got.Decode(mustSplit(t, out), V5); err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
					t.Errorf("(-want +got)\n%s", d)
				}
				if p.QoS > 0 {
					if at := idAt - len("before"); out[at] != byte(p.ID>>8) || out[at+1] != byte(p.ID) {
						t.Errorf("the packet identifier is not at %d", at)
					}
				}
			}
		}
	}
}
