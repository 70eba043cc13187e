package session

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/weir-io/weir/mqtt/packet"
)

// script drives a session by hand and writes what it does as text, so that a case is a conversation that can
// be read: packets the session sends, and what it asks of its owner.
type script struct {
	t   *testing.T
	s   *Session
	out []string
	now int64

	verdict Verdict
	seqs    []uint64 // of accepted publishes
	topics  []string
}

func (x *script) say(format string, args ...any) { x.out = append(x.out, fmt.Sprintf(format, args...)) }

func (x *script) Append(seq uint64, p *packet.Publish) Verdict {
	if x.verdict.Held {
		x.say("held")
		return x.verdict
	}
	x.topics = append(x.topics, string(p.Topic))
	if x.verdict.Reason == 0 {
		x.say("append %s", p.Topic)
		x.seqs = append(x.seqs, seq)
	}
	return x.verdict
}
func (x *script) Release(id uint16, seq uint64) {
	x.say("release %d", id)
	x.seqs = append(x.seqs, seq)
}
func (x *script) Received(id uint16, _ Ref) { x.say("received %d", id) }
func (x *script) Done(id uint16, qos byte, ref Ref, _ any) {
	x.say("done %d@%d", id, ref.Offset)
}
func (x *script) Ready() { x.say("ready") }

var testLimits = Limits{
	MaxPacket: 1 << 20, ReceiveMaximum: 4, AliasMaximum: 3, AliasOut: 3, MaxInflight: 4, OutputMax: 1000, ExpiryMax: NoExpiry, Overtake: 1000,
}

func start(t *testing.T, version byte, tweak func(*packet.Connect)) *script {
	x := &script{t: t}
	x.s = New(x, &testLimits, 1)
	x.connect(version, false, tweak)
	x.take()
	return x
}

func (x *script) connect(version byte, present bool, tweak func(*packet.Connect)) Grant {
	c := &packet.Connect{Version: version, CleanStart: true, ClientID: "c"}
	if tweak != nil {
		tweak(c)
	}
	return x.s.Connected(c, present, "")
}

// take returns everything since the last take: requests to the owner first, then packets sent.
func (x *script) take() string {
	x.t.Helper()
	for b := x.s.Out; len(b) > 0; {
		f, err := packet.Split(b, 0)
		if err != nil {
			x.t.Fatalf("the session sent % x: %v", b, err)
		}
		x.out = append(x.out, show(f, x.s.version))
		b = b[f.Size:]
	}
	x.s.Out = nil
	out := strings.Join(x.out, ", ")
	x.out = nil
	return out
}

func show(f packet.Frame, version byte) string {
	switch t := f.Type(); t {
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
		id := binary.BigEndian.Uint16(f.Body)
		if len(f.Body) > 2 {
			return fmt.Sprintf("%s %d 0x%02x", t, id, f.Body[2])
		}
		return fmt.Sprintf("%s %d", t, id)
	case packet.PUBLISH:
		var p packet.Publish
		if err := p.Decode(f, version); err != nil {
			return err.Error()
		}
		s := fmt.Sprintf("PUBLISH %d %s", p.ID, p.Topic)
		if p.Dup {
			s += " DUP"
		}
		if p.TopicAlias > 0 {
			s += fmt.Sprintf(" #%d", p.TopicAlias)
		}
		return s
	case packet.DISCONNECT:
		return fmt.Sprintf("DISCONNECT 0x%02x", f.Body[0])
	default:
		return t.String()
	}
}

func (x *script) want(what string) {
	x.t.Helper()
	if got := x.take(); got != what {
		x.t.Fatalf("\n got: %s\nwant: %s", got, what)
	}
}

func (x *script) publish(qos byte, id uint16, topic string, alias uint16) (bool, error) {
	return x.s.Publish(&packet.Publish{Topic: []byte(topic), QoS: qos, ID: id, TopicAlias: alias}, x.now)
}

// mustPublish wants the publish taken.
func (x *script) mustPublish(qos byte, id uint16, topic string) {
	x.t.Helper()
	if taken, err := x.publish(qos, id, topic, 0); !taken || err != nil {
		x.t.Fatalf("publish %d: taken %v, %v", id, taken, err)
	}
}

func (x *script) committed(i, n int) {
	x.t.Helper()
	if err := x.s.Committed(x.seqs[i], n, true, x.now); err != nil {
		x.t.Fatal(err)
	}
}

func (x *script) ack(t packet.Type, id uint16, r packet.Reason) error {
	return x.s.Ack(packet.Ack{Type: t, ID: id, Reason: r})
}

func (x *script) mustAck(t packet.Type, id uint16) {
	x.t.Helper()
	if err := x.ack(t, id, 0); err != nil {
		x.t.Fatal(err)
	}
}

// deliver offers a message whose record has the given offset.
func (x *script) deliver(qos byte, offset int64) bool {
	p := packet.Publish{Topic: []byte("t"), QoS: qos, ID: 1}
	if qos == 0 {
		p.ID = 0
	}
	return x.s.Deliver(&Delivery{Frame: packet.AppendPublish(nil, &p, x.s.version), IDAt: 5, QoS: qos, Ref: Ref{Offset: offset}})
}

func reasonOf(err error) packet.Reason {
	if pe, ok := err.(*packet.Error); ok {
		return pe.Reason
	}
	return 0
}

func TestAckFollowsCommit(t *testing.T) { // M1; MQTT5 [MQTT-4.3.2-4] [MQTT-3.3.4-1]
	for _, version := range []byte{packet.V311, packet.V5} {
		x := start(t, version, nil)
		x.mustPublish(1, 7, "a")
		x.want("append a")
		x.committed(0, 1)
		x.want("PUBACK 7")
		x.mustPublish(2, 7, "b") // MQTT5 [MQTT-4.3.3-8]: PUBREC, never PUBACK
		x.want("append b")
		if err := x.s.Stored(x.seqs[1], packet.Success, 0); err != nil {
			t.Fatal(err)
		}
		x.want("PUBREC 7")
		x.mustPublish(0, 0, "c") // MQTT5 [MQTT-4.3.1-1]: no answer to QoS 0
		x.want("append c")
	}
}

func TestAcksLeaveInPublishOrder(t *testing.T) { // M2; MQTT5 [MQTT-4.6.0-2]
	x := start(t, packet.V5, nil)
	for id := range uint16(4) {
		x.mustPublish(1, id+1, "a")
	}
	x.take()
	x.committed(1, 2) // another partition was faster
	x.want("")
	x.committed(0, 1)
	x.want("PUBACK 1, PUBACK 2, PUBACK 3")
	x.committed(3, 1)
	x.want("PUBACK 4")
}

func TestStalledPartitionIsOvertaken(t *testing.T) { // M2
	x := start(t, packet.V5, nil)
	x.mustPublish(1, 1, "stalled")
	x.mustPublish(1, 2, "a")
	x.mustPublish(1, 3, "a")
	x.take()
	x.committed(1, 1)
	x.now = 999
	if err := x.s.Tick(x.now, 1<<40); err != nil {
		t.Fatal(err)
	}
	x.want("")
	x.now = 1000
	if err := x.s.Tick(x.now, 1<<40); err != nil {
		t.Fatal(err)
	}
	x.want("PUBACK 2")
	x.committed(2, 1)
	x.want("PUBACK 3")
	x.mustPublish(1, 2, "a") // the overtaken ones no longer count against the window
	x.mustPublish(1, 3, "a")
	x.mustPublish(1, 4, "a")
	x.take()
	x.committed(0, 1)
	x.want("PUBACK 1")
	x.committed(3, 3)
	x.want("PUBACK 2, PUBACK 3, PUBACK 4")
	if x.s.Waiting() {
		t.Error("slots are left over")
	}
}

func TestFailedCommitIsNoAck(t *testing.T) { // M8: never an ack for unstored data (§5 trap)
	for _, version := range []byte{packet.V311, packet.V5} {
		x := start(t, version, nil)
		x.mustPublish(1, 1, "a")
		x.take()
		if r := reasonOf(x.s.Committed(x.seqs[0], 1, false, 0)); r != packet.ServerUnavailable {
			t.Errorf("reason %v", r)
		}
		x.mustPublish(2, 2, "a")
		x.take()
		if r := reasonOf(x.s.Stored(x.seqs[1], packet.ServerUnavailable, 0)); r != packet.ServerUnavailable {
			t.Errorf("reason %v", r)
		}
		x.want("")
	}
}

func TestHeldPublishIsNotTaken(t *testing.T) { // M8
	x := start(t, packet.V5, nil)
	for qos := range byte(3) {
		x.verdict = Verdict{Held: true}
		if taken, err := x.publish(qos, uint16(qos), "a", 0); taken || err != nil {
			t.Fatalf("QoS %d: taken %v, %v", qos, taken, err)
		}
		x.want("held")
		x.verdict = Verdict{}
		x.mustPublish(qos, uint16(qos), "a")
		x.want("append a")
	}
}

func TestRefusals(t *testing.T) { // MQTT5 [MQTT-4.3.2-4], §3.4.2.1; the contract's four codes
	for _, r := range []packet.Reason{packet.NotAuthorized, packet.TopicNameInvalid, packet.PacketTooLarge, packet.PayloadFormatInvalid} {
		x := start(t, packet.V5, nil)
		x.verdict = Verdict{Reason: r}
		x.mustPublish(1, 1, "a")
		x.want(fmt.Sprintf("PUBACK 1 0x%02x", byte(r)))
	}
	// QoS 2: the refusal is a PUBREC and ends the exchange (§5 trap).
	x := start(t, packet.V5, nil)
	x.verdict = Verdict{Reason: packet.NotAuthorized}
	x.mustPublish(2, 1, "a")
	x.want("PUBREC 1 0x87")
	x.verdict = Verdict{}
	x.mustPublish(2, 1, "b") // MQTT5 [MQTT-4.3.3-9]: the id is free again
	x.want("append b")
	// 3.1.1 has no negative ack: the connection ends, without one. // MQTT3 [MQTT-3.3.5-2]
	for qos := byte(1); qos <= 2; qos++ {
		x = start(t, packet.V311, nil)
		x.verdict = Verdict{Reason: packet.NotAuthorized}
		if _, err := x.publish(qos, 1, "a", 0); err == nil {
			t.Error("no error")
		}
		x.want("")
	}
	// A refused QoS 0 message is dropped.
	x = start(t, packet.V5, nil)
	x.verdict = Verdict{Reason: packet.NotAuthorized}
	x.mustPublish(0, 0, "a")
	x.want("")
	// A refusal found after the packet was taken keeps its place in the order.
	x = start(t, packet.V5, nil)
	x.mustPublish(1, 1, "a")
	x.verdict = Verdict{Reason: packet.NotAuthorized}
	x.mustPublish(1, 2, "b")
	x.want("append a")
	x.committed(0, 1)
	x.want("PUBACK 1, PUBACK 2 0x87")
}

func TestReceiveMaximum(t *testing.T) { // M1; MQTT5 [MQTT-3.3.4-7]
	x := start(t, packet.V5, nil)
	for id := uint16(1); id <= 3; id++ {
		x.mustPublish(1, id, "a")
	}
	x.mustPublish(2, 4, "a")
	x.mustPublish(0, 0, "a") // MQTT5 §4.9: QoS 0 is not counted
	x.mustPublish(2, 4, "a") // nor is a repeat
	if _, err := x.publish(1, 5, "a", 0); reasonOf(err) != packet.ReceiveMaximumExceeded {
		t.Fatalf("%v", err)
	}
	x = start(t, packet.V311, nil)
	for id := uint16(1); id <= 4; id++ {
		x.mustPublish(1, id, "a")
	}
	if taken, err := x.publish(1, 5, "a", 0); taken || err != nil { // 3.1.1: stop reading
		t.Fatalf("taken %v, %v", taken, err)
	}
	x.committed(0, 1)
	x.mustPublish(1, 5, "a")
}

// A QoS 2 exchange uses its place until PUBCOMP. // MQTT5 §4.9
func TestQoS2HoldsQuotaUntilPubcomp(t *testing.T) {
	x := start(t, packet.V5, nil)
	for id := uint16(1); id <= 4; id++ {
		x.mustPublish(2, id, "a")
		x.s.Stored(x.seqs[id-1], packet.Success, 0)
	}
	if _, err := x.publish(2, 5, "a", 0); reasonOf(err) != packet.ReceiveMaximumExceeded {
		t.Fatalf("%v", err)
	}
	x.take()
	x.mustAck(packet.PUBREL, 2)
	x.want("release 2")
	x.s.Released(x.seqs[4], true)
	x.want("PUBCOMP 2")
	x.mustPublish(2, 5, "a")
}

func TestTopicAlias(t *testing.T) {
	x := start(t, packet.V5, nil)
	for _, c := range []struct {
		topic string
		alias uint16
		want  packet.Reason
	}{
		{"", 1, packet.ProtocolError}, // MQTT5 [MQTT-3.3.2-12]: never set
		{"a", 1, 0}, {"", 1, 0},       // set, used
		{"b", 1, 0}, {"", 1, 0}, // set anew
		{"c", 3, 0}, {"", 2, packet.ProtocolError}, // a hole below a set one
		{"d", 4, packet.TopicAliasInvalid}, // MQTT5 [MQTT-3.3.2-9]
	} {
		_, err := x.publish(0, 0, c.topic, c.alias)
		if reasonOf(err) != c.want {
			t.Errorf("topic %q alias %d: %v, want %v", c.topic, c.alias, err, c.want)
		}
	}
	// The owner, which authorises, always sees the name (§5 trap).
	if got := strings.Join(x.topics, " "); got != "a a b b c" {
		t.Errorf("topics %s", got)
	}
	x.s.Lost()
	x.connect(packet.V5, true, nil)
	if _, err := x.publish(0, 0, "", 1); reasonOf(err) != packet.ProtocolError { // MQTT5 [MQTT-3.3.2-7]
		t.Errorf("an alias outlived its connection: %v", err)
	}
}

func TestQoS2IsTakenOnce(t *testing.T) { // MQTT5 [MQTT-4.3.3-8] to [MQTT-4.3.3-12]; M4
	x := start(t, packet.V5, nil)
	x.mustPublish(2, 1, "a")
	x.want("append a")
	x.mustPublish(2, 1, "a") // a repeat before the commit
	x.want("")
	x.s.Stored(x.seqs[0], packet.Success, 0)
	x.want("PUBREC 1")
	x.mustPublish(2, 1, "a") // and after: answered from memory, not 0x91 (§5 trap)
	x.want("PUBREC 1")
	x.mustAck(packet.PUBREL, 1)
	x.mustAck(packet.PUBREL, 1) // a repeat while the removal is under way
	x.want("release 1")
	x.s.Released(x.seqs[1], true)
	x.want("PUBCOMP 1")
	x.mustAck(packet.PUBREL, 1) // MQTT5 §3.7.2.1: not found
	x.want("PUBCOMP 1 0x92")
	x.mustPublish(2, 1, "b") // MQTT5 [MQTT-4.3.3-12]: now it is a new message
	x.want("append b")
}

func TestQoS2AcrossConnections(t *testing.T) { // MQTT5 [MQTT-4.4.0-1]
	x := start(t, packet.V5, nil)
	x.mustPublish(2, 1, "a")
	x.mustPublish(2, 2, "b")
	x.s.Stored(x.seqs[0], packet.Success, 0)
	x.take()
	x.s.Lost()
	x.connect(packet.V5, true, nil)
	x.want("CONNACK")
	x.mustPublish(2, 1, "a") // stored: acknowledged again at once
	x.want("PUBREC 1")
	x.mustPublish(2, 2, "b") // still under way: not appended again, acknowledged when it is done
	x.want("")
	x.s.Stored(x.seqs[1], packet.Success, 0)
	x.want("PUBREC 2")
}

func TestUnknownOutcomeIsAskedAgain(t *testing.T) { // M4
	x := start(t, packet.V5, nil)
	seq := x.s.Restored(9, false)
	x.mustPublish(2, 9, "a")
	x.want("append a")
	if x.seqs[0] != seq {
		t.Errorf("seq %x, want the restored exchange's %x", x.seqs[0], seq)
	}
	x.s.Stored(seq, packet.Success, 0)
	x.want("PUBREC 9")
	// PUBREL for a restored exchange: the client must have had our PUBREC.
	x = start(t, packet.V5, nil)
	x.s.Restored(9, false)
	x.mustAck(packet.PUBREL, 9)
	x.want("release 9")
	if reasonOf(x.s.Released(x.seqs[0], false)) != packet.ServerUnavailable {
		t.Error("a failed removal must not be acknowledged")
	}
	x.want("")
}

// What is committed between two connections was acknowledged on the second one before CONNACK. // MQTT5 [MQTT-3.2.0-1]
func TestConnackComesBeforeWhatWasCommittedWhileAway(t *testing.T) {
	x := start(t, packet.V5, nil)
	x.mustPublish(1, 1, "a")
	x.mustPublish(2, 2, "b")
	x.take()
	x.s.Lost()
	x.committed(0, 1)
	x.s.Stored(x.seqs[1], packet.Success, 0)
	x.connect(packet.V5, true, nil)
	x.want("CONNACK")
}

func TestLateAnswersOfAnEarlierConnection(t *testing.T) {
	x := start(t, packet.V5, nil)
	x.mustPublish(1, 1, "a")
	x.s.Lost()
	x.connect(packet.V5, true, nil)
	x.mustPublish(1, 1, "b")
	x.take()
	x.committed(0, 1) // of the first connection
	x.want("")
	if err := x.s.Committed(x.seqs[0], 1, false, 0); err != nil {
		t.Error(err)
	}
	x.committed(1, 1)
	x.want("PUBACK 1")
	// Another session of the same owner never shares numbers with this one.
	other := New(x, &testLimits, 2)
	if other.in1.next == x.s.in1.next || other.qos2().add(1).seq == x.s.qos2().add(1).seq {
		t.Error("two generations share sequence numbers")
	}
}

func TestConnackSpellsOutLimits(t *testing.T) { // §5 trap; MQTT5 [MQTT-3.2.2-21]
	// MQTT5 [MQTT-3.2.2-22]
	limits := testLimits
	limits.KeepAliveMax, limits.ExpiryMax = 100, 50
	x := &script{t: t}
	x.s = New(x, &limits, 1)
	for _, c := range []struct {
		keepAlive, grantedKeepAlive uint16
		expiry, grantedExpiry       uint32
	}{{0, 100, 0, 0}, {99, 99, 50, 50}, {101, 100, NoExpiry, 50}} {
		g := x.s.Connected(&packet.Connect{Version: packet.V5, KeepAlive: c.keepAlive, SessionExpiry: c.expiry}, false, "")
		if g.KeepAlive != c.grantedKeepAlive || g.Expiry != c.grantedExpiry {
			t.Errorf("%+v: granted %+v", c, g)
		}
	}
	x.s.Out = nil
	x.s.Connected(&packet.Connect{Version: packet.V5, KeepAlive: 7}, true, "id")
	for _, want := range []string{"\x21\x00\x04", "\x22\x00\x03", "\x27\x00\x10\x00\x00", "\x13\x00\x07", "\x12\x00\x02id"} {
		if !strings.Contains(string(x.s.Out), want) {
			t.Errorf("CONNACK % x lacks % x", x.s.Out, want)
		}
	}
	if g := x.s.Connected(&packet.Connect{Version: packet.V311, CleanStart: true}, false, ""); g.Expiry != 0 {
		t.Errorf("a clean 3.1.1 session outlives its connection by %d s", g.Expiry) // MQTT3 [MQTT-3.1.2-6]
	}
	if g := x.s.Connected(&packet.Connect{Version: packet.V311}, false, ""); g.Expiry != 50 {
		t.Errorf("a 3.1.1 session is kept for %d s", g.Expiry) // MQTT3 [MQTT-3.1.2-4]
	}
}
