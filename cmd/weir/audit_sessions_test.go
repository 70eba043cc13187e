package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Messages that retention took from a session that was away are in no gap of the topic: the audit says so.
func TestAuditShowsWhatRetentionTookFromAnAbsentSession(t *testing.T) {
	n := testNodeWith(t, func(c *Config) { c.Topics.Partitions = 1 })
	d, err := parseMQTTDial("mqtt://"+n.addrOf("mqtt"), "3.1.1")
	if err != nil {
		t.Fatal(err)
	}
	d.clientID, d.clean = "away", false
	if err := visit(d, "commands/#", 1); err != nil {
		t.Fatal(err)
	}
	d.clientID, d.clean = "publisher", true
	pub, err := d.open(4 << 10)
	if err != nil {
		t.Fatal(err)
	}
	defer pub.Close()
	for i := range 30 {
		topic := "telemetry"
		if i%10 == 3 {
			topic = "commands/restart"
		}
		b, _ := publishFrame(d.version, topic, 1, uint16(i+1), fmt.Appendf(nil, `{"seq":%d}`, i))
		if err := pub.send(b); err != nil {
			t.Fatal(err)
		}
		if first, _, err := pub.read(); err != nil || first>>4 != mqttPuback {
			t.Fatalf("packet %d: %v", first>>4, err)
		}
	}
	g, out := testGlobals(t, n.addrOf("kafka"))
	adm, err := g.admin()
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	offsets := kadm.Offsets{}
	offsets.AddOffset("telemetry", 0, 20, -1)
	if _, err := adm.DeleteRecords(g.Ctx, offsets); err != nil {
		t.Fatal(err)
	}
	var rep *auditReport
	for end := time.Now().Add(20 * time.Second); ; {
		if rep, err = audited(t, n.addrOf("kafka"), auditCmd{Topic: "telemetry"}); err != nil {
			t.Fatal(err)
		}
		if len(rep.Sessions) > 0 || time.Now().After(end) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	// The first message for it was offset 3; of the two that went, 3 and 13, none is left.
	if want := (sessionLoss{"away", 0, 3, 20, 2}); len(rep.Sessions) != 1 || rep.Sessions[0] != want {
		t.Fatalf("%+v, want %+v", rep.Sessions, want)
	}
	c := auditCmd{Topic: "telemetry", From: "beginning", FirstSeq: -1}
	if err := c.Run(g); err != nil || !strings.Contains(out.String(), "away") || !strings.Contains(out.String(), "LOST AT MOST") {
		t.Errorf("%v: %s", err, out)
	}
}

// Only the newest record of a session counts, only what it says of the topic, and one of a newer version is no "nothing".
func TestSessionLossesAreThoseOfTheTopic(t *testing.T) {
	tl := newTool(t, kfake.SeedTopics(1, "t", "other", sessionsTopic))
	g, _ := testGlobals(t, tl.addr)
	adm, err := g.admin()
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	topics, err := adm.ListTopics(g.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	cl, err := g.client(kgo.DefaultProduceTopic(sessionsTopic))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	put := func(key string, format int, topic string, messages int) {
		t.Helper()
		id := topics[topic].ID
		value, err := cbor.Marshal(map[int]any{1: format, 10: []map[int]any{{1: id[:], 3: 1, 4: 9, 5: messages}}})
		if err != nil {
			t.Fatal(err)
		}
		if topic == "" {
			value = nil
		}
		if err := cl.ProduceSync(g.Ctx, &kgo.Record{Key: []byte(key), Value: value}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	put("a", 2, "t", 7)
	put("b", 2, "t", 3)
	put("b", 2, "other", 4)
	put("c", 2, "t", 5)
	put("c", 2, "", 0)
	put("a\x00i", 2, "t", 6)
	put("\x00floor", 9, "t", 6)
	got, err := sessionLosses(g, adm, "t")
	if want := (sessionLoss{"a", 0, 1, 9, 7}); err != nil || len(got) != 1 || got[0] != want {
		t.Errorf("%+v, %v", got, err)
	}
	put("d", 4, "t", 1)
	if _, err := sessionLosses(g, adm, "t"); err == nil || !strings.Contains(err.Error(), "format 4") {
		t.Errorf("a record of the future: %v", err)
	}
}
