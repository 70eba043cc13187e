package kafka

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// topicID asks for the id of a topic; of one that is not there it is zero.
func topicID(c *rawConn, topic string) [16]byte {
	c.t.Helper()
	return roundTrip[*kmsg.MetadataResponse](c, metadataRequest(12, topic)).Topics[0].TopicID
}

// consumer is a client with a session: it names what has changed, and keeps what it was told.
type sessionReader struct {
	*rawConn
	version   int16
	id, epoch int32
	topics    map[string][16]byte
	names     map[[16]byte]string
}

func newSessionReader(t testing.TB, addr string, version int16, topics ...string) *sessionReader {
	c := &sessionReader{rawConn: dialRaw(t, addr), version: version, topics: make(map[string][16]byte), names: make(map[[16]byte]string)}
	for _, topic := range topics {
		c.learn(topic)
	}
	return c
}

func (c *sessionReader) learn(topic string) {
	id := topicID(c.rawConn, topic)
	c.topics[topic], c.names[id] = id, topic
}

type where struct {
	topic string
	index int32
}

// request names partitions, with the offsets to fetch from, and forgets others.
func (c *sessionReader) request(asks map[where]int64, forget ...where) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MinBytes, req.MaxBytes, req.SessionID, req.SessionEpoch = c.version, 1, 50<<20, c.id, c.epoch
	byTopic := make(map[string][]kmsg.FetchRequestTopicPartition)
	for at, offset := range asks {
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch = at.index, offset, 1<<20, -1
		byTopic[at.topic] = append(byTopic[at.topic], p)
	}
	for topic, parts := range byTopic {
		req.Topics = append(req.Topics, kmsg.FetchRequestTopic{Topic: topic, TopicID: c.topics[topic], Partitions: parts})
	}
	for _, at := range forget {
		req.ForgottenTopics = append(req.ForgottenTopics, kmsg.FetchRequestForgottenTopic{Topic: at.topic, TopicID: c.topics[at.topic], Partitions: []int32{at.index}})
	}
	return req
}

// fetch goes on with the session, as clients do.
func (c *sessionReader) fetch(asks map[where]int64, forget ...where) map[where]kmsg.FetchResponseTopicPartition {
	c.t.Helper()
	resp := roundTrip[*kmsg.FetchResponse](c.rawConn, c.request(asks, forget...))
	if resp.ErrorCode != 0 {
		c.t.Fatalf("session %d epoch %d: error %d", c.id, c.epoch, resp.ErrorCode)
	}
	return c.read(resp)
}

func (c *sessionReader) read(resp *kmsg.FetchResponse) map[where]kmsg.FetchResponseTopicPartition {
	c.t.Helper()
	if c.epoch > 0 && resp.SessionID != c.id {
		c.t.Fatalf("session %d epoch %d was answered in session %d", c.id, c.epoch, resp.SessionID)
	}
	if c.id, c.epoch = resp.SessionID, c.epoch+1; c.id == 0 {
		c.epoch = 0
	}
	told := make(map[where]kmsg.FetchResponseTopicPartition)
	for _, t := range resp.Topics {
		if c.version >= fetchTopicIDs {
			t.Topic = c.names[t.TopicID]
		}
		if len(t.Partitions) == 0 {
			c.t.Fatalf("was told of topic %s without a partition", t.Topic)
		}
		for _, p := range t.Partitions {
			told[where{t.Topic, p.Partition}] = p
		}
	}
	return told
}

// refused sends a request that has to be refused as a whole.
func (c *sessionReader) refused(id, epoch int32, want int16) {
	c.t.Helper()
	req := c.request(nil)
	req.SessionID, req.SessionEpoch = id, epoch
	if resp := roundTrip[*kmsg.FetchResponse](c.rawConn, req); resp.ErrorCode != want || len(resp.Topics) > 0 {
		c.t.Errorf("session %d epoch %d: error %d and %d topics, want error %d", id, epoch, resp.ErrorCode, len(resp.Topics), want)
	}
}

func TestFetchSessions(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		createTopic(t, addr, "t", 2, nil)
		createTopic(t, addr, "u", 1, nil)
		producer := dialRaw(t, addr)
		fill(t, producer, "t", "a")
		end := int64(1)
		t0, t1, u0 := where{"t", 0}, where{"t", 1}, where{"u", 0}
		for _, version := range []int16{7, 11, 12, 13, 18} {
			c := newSessionReader(t, addr, version, "t", "u")
			want := func(told map[where]kmsg.FetchResponseTopicPartition, parts ...where) {
				t.Helper()
				for _, at := range parts {
					if told[at].ErrorCode != 0 {
						t.Fatalf("v%d: %+v", version, told)
					}
				}
				if len(told) != len(parts) {
					t.Fatalf("v%d: was told of %v, want %v", version, told, parts)
				}
			}
			want(c.fetch(map[where]int64{t0: end, t1: 0}), t0, t1)
			if c.id == 0 {
				t.Fatalf("v%d: no session", version)
			}
			want(c.fetch(nil))                        // nothing is new
			want(c.fetch(map[where]int64{u0: 0}), u0) // told of once
			want(c.fetch(nil))
			fill(t, producer, "t", "b")
			for range 2 { // until the client has moved on
				told := c.fetch(nil)
				want(told, t0)
				if got := values(t, told[t0].RecordBatches); len(got) != 1 || got[0] != fmt.Sprint(end, ":b") {
					t.Fatalf("v%d: read %v", version, got)
				}
			}
			end++
			want(c.fetch(map[where]int64{t0: end}))
			want(c.fetch(map[where]int64{t0: end - 1}, t1), t0)
			fill(t, producer, "t", "c")
			want(c.fetch(nil, t0)) // forgotten: not told of
			end++
			want(c.fetch(map[where]int64{t0: end}), t0)

			// Any connection may go on with it.
			other := newSessionReader(t, addr, version)
			other.id, other.epoch = c.id, c.epoch
			want(other.fetch(nil))
			c.refused(c.id, c.epoch, errInvalidFetchSessionEpoch)
			c.epoch = other.epoch
			c.refused(c.id, c.epoch+1, errInvalidFetchSessionEpoch)
			c.refused(c.id+1, c.epoch, errFetchSessionIDNotFound)
			want(c.fetch(nil))

			// Closed, by a request without and one with a session.
			id := c.id
			c.epoch = epochNoSession
			told := c.fetch(map[where]int64{t0: end})
			if want(told, t0); c.id != 0 {
				t.Fatalf("v%d: session %d", version, c.id)
			}
			c.refused(id, 1, errFetchSessionIDNotFound)
			want(c.fetch(map[where]int64{t0: end}), t0)
			id, c.epoch = c.id, epochNewSession
			if want(c.fetch(map[where]int64{u0: 0}), u0); c.id == 0 || c.id == id {
				t.Fatalf("v%d: session %d after session %d", version, c.id, id)
			}
			c.refused(id, 1, errFetchSessionIDNotFound)
		}
	})
}

// What has no counterpart in the oracle, or differs there.
func TestFetchSessionOdds(t *testing.T) {
	s, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	t0 := where{"t", 0}
	c := newSessionReader(t, addr, 12, "t")
	c.refused(0, 3, errFetchSessionIDNotFound)
	c.refused(0, -7, errFetchSessionIDNotFound)
	c.fetch(map[where]int64{t0: 0})
	c.version = 13
	c.refused(c.id, c.epoch, errFetchSessionTopicID)
	c.version = 12
	if got := s.Stats(); got.FetchSessions != 1 || got.FetchSessionParts != 1 {
		t.Errorf("%d sessions, %d partitions", got.FetchSessions, got.FetchSessionParts)
	}
	// Without its last partition a session ends.
	req := c.request(nil, t0)
	if resp := roundTrip[*kmsg.FetchResponse](c.rawConn, req); resp.ErrorCode != 0 || resp.SessionID != 0 || len(resp.Topics) > 0 {
		t.Errorf("answered %+v", resp)
	}
	c.refused(c.id, c.epoch+1, errFetchSessionIDNotFound)
	if got := s.Stats(); got.FetchSessions != 0 || got.FetchSessionParts != 0 {
		t.Errorf("%d sessions, %d partitions", got.FetchSessions, got.FetchSessionParts)
	}
	// And one of nothing is none.
	c.id, c.epoch = 0, 0
	if c.fetch(nil); c.id != 0 {
		t.Errorf("session %d of nothing", c.id)
	}
}

// Who finds no room is served without a session, and who outgrows the room begins anew.
func TestFetchSessionLimits(t *testing.T) {
	s, addr := startServer(t, Config{FetchSessions: 2, FetchSessionBytes: 2*sessionBytes + 2*(sessionTopicBytes+sessionPartBytes) + 200})
	createTopic(t, addr, "t", 3, nil)
	t0 := where{"t", 0}
	var all []*sessionReader
	for i := range 3 {
		c := newSessionReader(t, addr, 12, "t")
		all = append(all, c)
		for range 2 {
			if told := c.fetch(map[where]int64{t0: 0}); i == 2 && (c.id != 0 || len(told) != 1) {
				t.Fatalf("session %d, told of %d partitions", c.id, len(told))
			}
		}
		if i < 2 && c.id == 0 {
			t.Fatalf("consumer %d has no session", i)
		}
	}
	req := all[0].request(map[where]int64{{"t", 1}: 0, {"t", 2}: 0})
	if resp := roundTrip[*kmsg.FetchResponse](all[0].rawConn, req); resp.ErrorCode != errFetchSessionIDNotFound {
		t.Errorf("answered %+v", resp)
	}
	if got := s.Stats(); got.FetchSessions != 1 || got.FetchSessionsEvicted != 0 {
		t.Errorf("%d sessions, %d evicted", got.FetchSessions, got.FetchSessionsEvicted)
	}
	if all[2].fetch(map[where]int64{t0: 0}); all[2].id == 0 {
		t.Error("no session, though there is room again")
	}

	// One session has a limit of its own, at which a request stops.
	f := &fetch{version: 12, topics: []fetchTopic{{name: []byte("t"), parts: 2 * maxSessionParts}}, parts: make([]fetchPart, 2*maxSessionParts)}
	for i := range f.parts {
		f.parts[i].index = int32(i)
	}
	if s := newFetchSession(false); f.update(s) || len(s.parts) != maxSessionParts+1 {
		t.Errorf("a session has %d partitions", len(s.parts))
	}
	big := newSessionReader(t, addr, 12, "t")
	asks := make(map[where]int64)
	for i := range int32(maxSessionParts + 1) {
		asks[where{"t", i}] = 0
	}
	if told := big.fetch(asks); big.id != 0 || len(told) != len(asks) {
		t.Errorf("session %d, told of %d partitions", big.id, len(told))
	}
	req = all[2].request(asks)
	if resp := roundTrip[*kmsg.FetchResponse](all[2].rawConn, req); resp.ErrorCode != errFetchSessionIDNotFound {
		t.Errorf("answered %d", resp.ErrorCode)
	}
}

// A request that waits while another of its session comes and is answered has nothing to say any more.
func TestFetchSessionIsOvertaken(t *testing.T) {
	s, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	c := newSessionReader(t, addr, 18, "t")
	c.fetch(map[where]int64{{"t", 0}: 0})
	waits := func(c *sessionReader, n int64) *kmsg.FetchRequest {
		req := c.request(nil)
		req.MaxWaitMillis = 60_000
		c.sendFrame(frameOf(req, 1))
		eventually(t, "fetch waits", func() bool { return s.Stats().FetchWaiting == n })
		return req
	}
	slow := waits(c, 1)
	c2 := newSessionReader(t, addr, 18, "t")
	c2.id, c2.epoch = c.id, c.epoch+1
	fast := waits(c2, 2)
	fill(t, dialRaw(t, addr), "t", "a")
	_, body := c.readFrame()
	if resp := parseResponse[*kmsg.FetchResponse](c.rawConn, slow, body); resp.ErrorCode != errInvalidFetchSessionEpoch || resp.SessionID != c.id || len(resp.Topics) > 0 {
		t.Errorf("the first was answered %+v", resp)
	}
	_, body = c2.readFrame()
	if told := c2.read(parseResponse[*kmsg.FetchResponse](c2.rawConn, fast, body)); len(told) != 1 {
		t.Errorf("the second was told of %v", told)
	}
	eventually(t, "the fetch budget is given back", func() bool { return s.fetching.Load() == 0 })
}

// TestFetchTopicIDs: what an id stands for that is not there, not yet there, gone, or has a successor.
func TestFetchTopicIDs(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		createTopic(t, addr, "t", 1, nil)
		createTopic(t, addr, "keeps", 1, nil)
		admin := kadm.NewClient(newClient(t, addr))
		c := newSessionReader(t, addr, 13, "t", "keeps")
		c.topics["nope"], c.names[[16]byte{9}] = [16]byte{9}, "nope"
		t0, keeps, nope := where{"t", 0}, where{"keeps", 0}, where{"nope", 0}
		want := func(what string, told map[where]kmsg.FetchResponseTopicPartition, codes map[where]int16) {
			t.Helper()
			got := make(map[where]int16)
			for at, p := range told {
				got[at] = p.ErrorCode
			}
			if !reflect.DeepEqual(got, codes) {
				t.Fatalf("%s: codes %v, want %v", what, got, codes)
			}
		}
		want("full", c.fetch(map[where]int64{t0: 0, keeps: 0, nope: 0, {"t", 7}: 0}), map[where]int16{
			t0: errNone, keeps: errNone, nope: errUnknownTopicID, {"t", 7}: errUnknownTopicOrPartition})
		want("errors are told each time", c.fetch(nil), map[where]int16{nope: errUnknownTopicID, {"t", 7}: errUnknownTopicOrPartition})
		want("until forgotten", c.fetch(nil, nope, where{"t", 7}), map[where]int16{})
		if _, err := admin.DeleteTopic(context.Background(), "t"); err != nil {
			t.Fatal(err)
		}
		want("deleted", c.fetch(nil), map[where]int16{t0: errUnknownTopicOrPartition})
		createTopic(t, addr, "t", 1, nil)
		want("made anew", c.fetch(nil), map[where]int16{t0: errInconsistentTopicID})
		c.topics["old"] = c.topics["t"]
		c.learn("t")
		want("by its new id", c.fetch(map[where]int64{t0: 0}, where{"old", 0}), map[where]int16{t0: errNone})
	})
}

// A topic's id may come to be known, and then is known by its name; and what another topic of that name has is not told or changed by it.
func TestTopicIDsWhileTopicsChange(t *testing.T) {
	b, _, addr := startSite(t)
	createTopic(t, addr, "t", 1, nil)
	im := threePeers(t, b.Image())
	b.set(im)
	c := newSessionReader(t, addr, 13, "t")
	c.topics["new"], c.names[[16]byte{5}] = [16]byte{5}, "new"
	want := func(what string, asks map[where]int64, codes ...int16) {
		t.Helper()
		told := c.fetch(asks)
		if len(told) != len(codes) || told[where{"new", 0}].ErrorCode != codes[0] {
			t.Errorf("%s: %+v, want code %d", what, told, codes)
		}
	}
	want("not there yet", map[where]int64{{"new", 0}: 0}, errUnknownTopicID)
	im = apply(t, im, &meta.CreateTopic{Name: "new", ID: log.TopicID{5}, Assignment: [][]int32{{2}}})
	b.set(im)
	want("led elsewhere", nil, errNotLeaderOrFollower)
	im = apply(t, im, &meta.DeleteTopic{ID: log.TopicID{5}, Expect: im.Topic("new").Version})
	b.set(im)
	want("gone", nil, errUnknownTopicOrPartition)

	// The metadata is ahead of the partitions that are open here.
	im = apply(t, im, &meta.DeleteTopic{ID: im.Topic("t").ID, Expect: im.Topic("t").Version}, &meta.CreateTopic{Name: "t", ID: log.TopicID{7}, Assignment: [][]int32{{1}}})
	b.set(im)
	raw := dialRaw(t, addr)
	fetch := fetchRequest(13, "", 0, 0)
	fetch.Topics[0].TopicID = [16]byte{7}
	if p := fetchOne(raw, fetch); p.ErrorCode != errInconsistentTopicID || p.HighWatermark != -1 {
		t.Errorf("fetch: %+v", p)
	}
	produce := produceRequest(13, "", -1, batchOf(1, "a"))
	produce.Topics[0].TopicID = [16]byte{7}
	if p := roundTrip[*kmsg.ProduceResponse](raw, produce).Topics[0].Partitions[0]; p.ErrorCode != errUnknownTopicID {
		t.Errorf("produce: %+v", p)
	}
}

// The leader is named by the id as by the name, and its address with it (KIP-951).
func TestFetchNamesTheLeader(t *testing.T) {
	b, _, addr := startSite(t)
	createTopic(t, addr, "t", 1, nil)
	im := moveTo2(t, threePeers(t, b.Image()), "t")
	for _, version := range []int16{12, 15, 16, 18} {
		b.set(b.Broker.Image())
		c := newSessionReader(t, addr, version, "t")
		c.fetch(map[where]int64{{"t", 0}: 0})
		b.set(im)
		for range 2 { // told again each time
			resp := roundTrip[*kmsg.FetchResponse](c.rawConn, c.request(nil))
			p := c.read(resp)[where{"t", 0}]
			if p.ErrorCode != errNotLeaderOrFollower || p.CurrentLeader.LeaderID != 2 || p.CurrentLeader.LeaderEpoch != int32(im.Topic("t").Partitions[0].LeaderEpoch) {
				t.Errorf("v%d: %+v", version, p)
			}
			if version < fetchEndpoints {
				if len(resp.Brokers) > 0 {
					t.Errorf("v%d: %+v", version, resp.Brokers)
				}
				continue
			}
			if len(resp.Brokers) != 1 || resp.Brokers[0].NodeID != 2 || hostPort(resp.Brokers[0].Host, resp.Brokers[0].Port) != "edge-2:9092" || *resp.Brokers[0].Rack != "east" {
				t.Errorf("v%d: %+v", version, resp.Brokers)
			}
		}
		b.set(b.Broker.Image()) // and when the error is gone
		if told := c.fetch(nil); len(told) != 1 || told[where{"t", 0}].ErrorCode != errNone {
			t.Errorf("v%d: told %+v", version, told)
		}
	}
}

func TestProduceNamesTheLeader(t *testing.T) {
	b, _, addr := startSite(t)
	createTopic(t, addr, "t", 1, nil)
	createTopic(t, addr, "stays", 1, nil)
	im := moveTo2(t, threePeers(t, b.Image()), "t")
	b.set(im)
	c := dialRaw(t, addr)
	for version := int16(9); version <= 13; version++ {
		req := produceRequest(version, "t", -1, batchOf(1, "a"))
		req.Topics = append(req.Topics, produceRequest(version, "stays", -1, batchOf(1, "a")).Topics...)
		for i := range req.Topics {
			req.Topics[i].TopicID = im.Topic(req.Topics[i].Topic).ID
		}
		resp := roundTrip[*kmsg.ProduceResponse](c, req)
		p, leader, epoch := resp.Topics[0].Partitions[0], int32(-1), int32(-1)
		if version >= produceLeaders {
			leader, epoch = 2, int32(im.Topic("t").Partitions[0].LeaderEpoch)
			if len(resp.Brokers) != 1 || resp.Brokers[0].NodeID != 2 || hostPort(resp.Brokers[0].Host, resp.Brokers[0].Port) != "edge-2:9092" || *resp.Brokers[0].Rack != "east" {
				t.Errorf("v%d: %+v", version, resp.Brokers)
			}
		}
		if p.ErrorCode != errNotLeaderOrFollower || p.CurrentLeader.LeaderID != leader || p.CurrentLeader.LeaderEpoch != epoch {
			t.Errorf("v%d: %+v", version, p)
		}
		if p := resp.Topics[1].Partitions[0]; p.ErrorCode != errNone || p.BaseOffset != int64(version-9) || p.CurrentLeader.LeaderID != -1 {
			t.Errorf("v%d: %+v", version, p)
		}
	}
}

// Counts that shrink below the size at which they are encoded in fewer bytes.
func TestFetchSessionOfMany(t *testing.T) {
	_, addr := startServer(t, Config{})
	const many = 130
	createTopic(t, addr, "wide", many, nil)
	var names []string
	for i := range many {
		names = append(names, fmt.Sprint("t", i))
		createTopic(t, addr, names[i], 1, nil)
	}
	producer := dialRaw(t, addr)
	for _, version := range []int16{11, 12, 18} {
		c := newSessionReader(t, addr, version, append(names, "wide")...)
		asks := make(map[where]int64)
		for i := range many {
			asks[where{names[i], 0}], asks[where{"wide", int32(i)}] = 0, 0
		}
		if told := c.fetch(asks); len(told) != 2*many {
			t.Fatalf("v%d: told of %d", version, len(told))
		}
		fill(t, producer, "wide", "a")
		fill(t, producer, "t77", "a")
		for range 2 {
			told := c.fetch(nil)
			if len(told) != 2 || len(values(t, told[where{"wide", 0}].RecordBatches)) == 0 || len(values(t, told[where{"t77", 0}].RecordBatches)) == 0 {
				t.Fatalf("v%d: told %+v", version, told)
			}
		}
	}
}

// What a client knows of all that it fetches, from what it was told bit by bit, is what a full fetch tells.
func TestFetchSessionTellsAll(t *testing.T) {
	_, addr := startServer(t, Config{})
	topics := []string{"a", "b", "c"}
	for _, topic := range topics {
		createTopic(t, addr, topic, 3, nil)
	}
	producer := dialRaw(t, addr)
	producer.SetDeadline(noDeadline)
	r := rand.New(rand.NewPCG(5, 6))
	for _, version := range []int16{7, 12, 13, 18} {
		c := newSessionReader(t, addr, version, topics...)
		naive := newSessionReader(t, addr, version, topics...)
		fetches := make(map[where]int64)
		known := make(map[where]kmsg.FetchResponseTopicPartition)
		for range 150 {
			if r.IntN(3) == 0 {
				req := produceRequest(9, topics[r.IntN(3)], -1, batchOf(1, "x"))
				req.Topics[0].Partitions[0].Partition = r.Int32N(3)
				roundTrip[*kmsg.ProduceResponse](producer, req)
			}
			asks := make(map[where]int64)
			var forget []where
			for range r.IntN(3) {
				at := where{topics[r.IntN(3)], r.Int32N(4)} // one more than there are
				if _, ok := fetches[at]; ok && r.IntN(2) == 0 && c.epoch > 0 {
					if _, named := asks[at]; !named {
						forget = append(forget, at)
						delete(fetches, at)
						delete(known, at)
					}
					continue
				}
				if len(forget) > 0 {
					continue
				}
				asks[at] = max(known[at].HighWatermark, 0) - r.Int64N(3) // before the start as well
				fetches[at] = asks[at]
			}
			if c.id == 0 || r.IntN(40) == 0 {
				c.epoch, asks = 0, fetches
				clear(known)
			}
			if len(fetches) == 0 {
				c.epoch = 0
				continue
			}
			told := c.fetch(asks, forget...)
			for at, p := range told {
				if _, ok := fetches[at]; !ok {
					t.Fatalf("v%d: told of %v, which is not fetched", version, at)
				}
				known[at] = p
			}
			naive.id, naive.epoch = 0, epochNoSession
			for at, want := range naive.fetch(fetches) {
				got := known[at]
				if _, new := told[at]; !new && len(want.RecordBatches) > 0 {
					t.Fatalf("v%d: %v has records, and is left out", version, at)
				}
				if got.RecordBatches = want.RecordBatches; told[at].RecordBatches != nil {
					got.RecordBatches = told[at].RecordBatches
				}
				if !reflect.DeepEqual(got, want) {
					t.Fatalf("v%d: %v is %+v, the client knows %+v", version, at, want, got)
				}
			}
			if len(known) != len(fetches) {
				t.Fatalf("v%d: knows %d of %d partitions", version, len(known), len(fetches))
			}
		}
	}
}

func TestCorrectArray(t *testing.T) {
	for _, flexible := range []bool{false, true} {
		for _, was := range []int{0, 1, 126, 127, 128, 16_382, 16_383, 20_000} {
			for _, n := range []int{0, 1, 126, 127, 16_383} {
				if n > was {
					continue
				}
				b := append(appendArray([]byte("head"), was, flexible), "tail"...)
				want := append(appendArray([]byte("head"), n, flexible), "tail"...)
				if got := correctArray(b, 4, was, n, flexible); string(got) != string(want) {
					t.Errorf("%d to %d, flexible %v: %x, want %x", was, n, flexible, got, want)
				}
			}
		}
	}
}
