package kafka

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestApiVersionsListsTheTable(t *testing.T) {
	_, addr := startServer(t, Config{})
	c := dialRaw(t, addr)
	var first *kmsg.ApiVersionsResponse
	for v := int16(0); v <= 5; v++ {
		req := kmsg.NewPtrApiVersionsRequest()
		req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = v, "raw-test", "1.0"
		resp := roundTrip[*kmsg.ApiVersionsResponse](c, req)
		if resp.ErrorCode != 0 {
			t.Fatalf("v%d: error %d", v, resp.ErrorCode)
		}
		if first == nil {
			first = resp
		} else if fmt.Sprint(resp.ApiKeys) != fmt.Sprint(first.ApiKeys) {
			t.Fatalf("v%d lists other keys than v0", v)
		}
	}
	var got bytes.Buffer
	for _, k := range first.ApiKeys {
		fmt.Fprintf(&got, "%2d %-24s %d-%d\n", k.ApiKey, kmsg.NameForKey(k.ApiKey), k.MinVersion, k.MaxVersion)
	}
	const golden = "testdata/apis.golden"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("advertised keys differ from %s (go test -update rewrites it):\n%s", golden, got.Bytes())
	}
}

func TestApiVersionsUnknownVersion(t *testing.T) {
	_, addr := startServer(t, Config{})
	c := dialRaw(t, addr)
	// Only the header of a version from the future can be understood (KIP-511).
	frame := []byte{0, 18, 0, 99, 0, 0, 0, 7, 0xff, 0xfe, 0xfd}
	c.sendFrame(frame)
	corr, body := c.readFrame()
	if corr != 7 {
		t.Fatalf("correlation id %d, want 7", corr)
	}
	resp := kmsg.NewPtrApiVersionsResponse()
	if err := resp.ReadFrom(body); err != nil {
		t.Fatal(err)
	}
	if resp.ErrorCode != errUnsupportedVersion || len(resp.ApiKeys) != 1 || resp.ApiKeys[0].MaxVersion != 5 {
		t.Fatalf("got %+v", resp)
	}
	// The connection goes on.
	if got := roundTrip[*kmsg.ApiVersionsResponse](c, kmsg.NewPtrApiVersionsRequest()); got.ErrorCode != 0 {
		t.Fatalf("after it: error %d", got.ErrorCode)
	}
}

func TestApiVersionsChecksSoftwareName(t *testing.T) {
	_, addr := startServer(t, Config{})
	c := dialRaw(t, addr)
	for name, want := range map[string]int16{"kgo": 0, "a": 0, "a-b.c": 0, "": errInvalidRequest, "-a": errInvalidRequest, "a b": errInvalidRequest} {
		req := kmsg.NewPtrApiVersionsRequest()
		req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = 3, name, "1"
		if got := roundTrip[*kmsg.ApiVersionsResponse](c, req).ErrorCode; got != want {
			t.Errorf("name %q: error %d, want %d", name, got, want)
		}
	}
}

// TestTableMatchesMessages keeps the table honest about what the messages can do.
func TestTableMatchesMessages(t *testing.T) {
	apis, _ := table()
	for key, a := range apis {
		req := kmsg.RequestForKey(key)
		if req == nil || a.max > req.MaxVersion() || a.min > a.max || a.min < 0 {
			t.Errorf("key %d: versions %d to %d cannot be decoded", key, a.min, a.max)
			continue
		}
		if a.raw == nil && reflect.TypeOf(a.request()) != reflect.TypeOf(req) {
			t.Errorf("key %d: bodies are decoded into %T, the message is %T", key, a.request(), req)
		}
		for v := a.min; v <= a.max; v++ {
			req.SetVersion(v)
			if req.IsFlexible() != (v >= a.flexible) {
				t.Errorf("key %d: version %d flexible is %v in the messages", key, v, req.IsFlexible())
			}
		}
		if (a.handle == nil) == (a.raw == nil) {
			t.Errorf("key %d: needs one handler", key)
		}
	}
}

func TestHangsUpOnUnknownKeyAndVersion(t *testing.T) {
	_, addr := startServer(t, Config{})
	for _, head := range [][2]int16{{-1, 0}, {999, 0}, {7, 0}, {17, 9}, {17, -1}} {
		c := dialRaw(t, addr)
		b := binary.BigEndian.AppendUint16(nil, uint16(head[0]))
		b = binary.BigEndian.AppendUint16(b, uint16(head[1]))
		c.sendFrame(append(b, 0, 0, 0, 1, 0xff, 0xff, 0))
		c.wantClosed()
	}
}

// A client that has come to another broker than it thinks is told to begin anew (KIP-1242).
func TestApiVersionsChecksIdentity(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		c := dialRaw(t, addr)
		meta := roundTrip[*kmsg.MetadataResponse](c, metadataRequest(12))
		id, node := *meta.ClusterID, meta.Brokers[0].NodeID
		for _, test := range []struct {
			cluster *string
			node    int32
			want    int16
		}{
			{nil, -1, errNone}, {&id, node, errNone}, {&id, node + 1, errRebootstrapRequired}, {new("other"), node, errRebootstrapRequired},
			{nil, node, errInvalidRequest}, {&id, -1, errInvalidRequest},
		} {
			for version, want := range map[int16]int16{4: errNone, 5: test.want} {
				req := kmsg.NewPtrApiVersionsRequest()
				req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion, req.ClusterID, req.NodeID = version, "raw", "1", test.cluster, test.node
				if got := roundTrip[*kmsg.ApiVersionsResponse](c, req); got.ErrorCode != want || (len(got.ApiKeys) > 0) != (want == errNone) {
					t.Errorf("v%d %+v: error %d, %d keys, want error %d", version, test, got.ErrorCode, len(got.ApiKeys), want)
				}
			}
		}
	})
}
