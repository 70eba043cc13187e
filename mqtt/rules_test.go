package mqtt

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/eclipse/paho.golang/packets"
	"pgregory.net/rapid"

	"github.com/weir-io/weir/mqtt/packet"
)

// Two filters meet exactly when some topic matches both.
func TestFiltersMeet(t *testing.T) {
	var topics []string
	for _, a := range []string{"a", "z", "", "$s"} {
		topics = append(topics, a)
		for _, b := range []string{"a", "z", ""} {
			topics = append(topics, a+"/"+b)
			for _, c := range []string{"a", "z"} {
				topics = append(topics, a+"/"+b+"/"+c, a+"/"+b+"/"+c+"/q")
			}
		}
	}
	draw := func(t *rapid.T, name string) string {
		levels := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "z", "+", "$s"}), 1, 3).Draw(t, name)
		for i := 1; i < len(levels); i++ {
			levels[i] = strings.ReplaceAll(levels[i], "$s", "a")
		}
		if rapid.Bool().Draw(t, name+" rest") {
			levels = append(levels[:len(levels)-1], "#")
		}
		return strings.Join(levels, "/")
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t, "a"), draw(t, "b")
		meet := slices.ContainsFunc(topics, func(topic string) bool { return topic != "" && naiveMatch(a, topic) && naiveMatch(b, topic) })
		if filtersMeet(a, b) != meet || filtersMeet(b, a) != meet {
			t.Fatalf("%q meets %q: %v, topics say %v", a, b, filtersMeet(a, b), meet)
		}
	})
	if !filtersMeet("plants/+plant/x", "plants/7/#") || !filtersMeet("ids/%c", "ids/7") || filtersMeet("ids/%c", "id/7") {
		t.Error("names within levels")
	}
}

func TestRoutesOfTopicsAndFilters(t *testing.T) {
	r, err := NewRouter([]Route{{Match: "plants/+p/+m/x", Topic: "x"}, {Match: "plants/#", Topic: "plants"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]string{"plants/1/2/x": "x", "plants/1": "plants", "other": ""} {
		if got, ok := r.LogTopic([]byte(topic)); got != want || ok != (want != "") {
			t.Errorf("%s leads to %q, %v", topic, got, ok)
		}
	}
	for filter, want := range map[string]string{"plants/+/+/x": "[x plants]", "plants/+": "[plants]", "#": "[x plants]", "other/#": "[]"} {
		if got := fmt.Sprint(r.LogTopics(filter)); got != want {
			t.Errorf("%s leads to %s, want %s", filter, got, want)
		}
	}
	topic := []byte("plants/1/2/x")
	if n := testing.AllocsPerRun(100, func() { r.LogTopic(topic) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestAdminOfTheFile(t *testing.T) {
	a := mustAuth(t, "users: [{name: root, password: \"HASH\", admin: true}, {name: u, password: \"HASH\", publish: [a]}]\neveryone: {subscribe: [b]}")
	root, err := a.Authenticate(ClientInfo{ClientID: "c", UserName: "root", HasPassword: true, Password: []byte("secret")})
	if err != nil || !root.Admin() || !a.Allow(root, Publish, []byte("x/y")) || !a.Allow(root, Subscribe, []byte("$SYS/#")) {
		t.Errorf("an admin may not do everything: %v", err)
	}
	if !a.Admin("root") || a.Admin("u") || a.Admin("who") || !a.HasAdmin() || !a.Known("u") || a.Known("who") {
		t.Error("who is an admin")
	}
	stranger := a.Stranger(ClientInfo{ClientID: "c", UserName: "who"})
	if stranger.Admin() || a.Allow(stranger, Publish, []byte("a")) || !a.Allow(stranger, Subscribe, []byte("b")) {
		t.Error("a stranger has not what everyone has")
	}
	if got := fmt.Sprint(a.Rules()); got != "[{ subscribe b} {u publish a}]" {
		t.Errorf("rules %s", got)
	}
	if _, err := ParseAuth([]byte(strings.ReplaceAll("users: [{name: root, password: \"HASH\", admin: true, publish: [a]}]", "HASH", secretHash()))); err == nil || !strings.Contains(err.Error(), "users[0]") {
		t.Errorf("an admin with rules: %v", err)
	}
}

// changing allows everything but subscriptions to a filter that is taken away.
type changing struct {
	AllowAll
	taken *atomic.Pointer[string]
}

func (c changing) Allow(_ Identity, a Action, topic []byte) bool {
	taken := c.taken.Load()
	return a == Publish || taken == nil || *taken != string(topic)
}

// A rule that takes a subscription from a client ends its connection; when the client comes back, that subscription is gone, for good, and the others are there.
func TestRulesTakeSubscriptions(t *testing.T) {
	var taken atomic.Pointer[string]
	r := startRig(t, func(c *Config) { c.Auth = changing{taken: &taken} })
	lasting := func(c *packets.Connect) {
		c.CleanStart = false
		c.Properties.SessionExpiryInterval = new(uint32(1000))
	}
	pub, _ := r.v5("pub", nil)
	other, _ := r.v5("other", nil)
	other.subscribe("open/#", 1)
	p, _ := r.v5("dev", lasting)
	p.subscribe("open/#", 1)
	p.subscribe("closed/#", 1)
	r.srv.Recheck()
	p.quiet()

	taken.Store(new("closed/#"))
	r.srv.Recheck()
	if f := p.expectType(packet.DISCONNECT); packet.Reason(f[2]) != packet.NotAuthorized {
		t.Errorf("DISCONNECT % x", f)
	}
	p.expectEnd()
	other.quiet() // it is none of its business
	if n := r.srv.Stats().Unauthorized; n != 1 {
		t.Errorf("%d refusals counted", n)
	}

	check := func() {
		t.Helper()
		p, ack := r.v5("dev", lasting)
		if !ack.SessionPresent {
			t.Fatal("no session")
		}
		pub.publish("closed/1", "no", 1, 1)
		pub.expectType(packet.PUBACK)
		pub.publish("open/1", "yes", 1, 2)
		pub.expectType(packet.PUBACK)
		if m := p.message(); m.Topic != "open/1" {
			t.Errorf("got %s", m.Topic)
		}
		p.c.Close()
	}
	check()
	taken.Store(nil) // allowed again, but nobody has asked for it again
	check()
}
