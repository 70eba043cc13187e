package meta

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"github.com/weir-io/weir/log"
)

func uuid(n byte) UUID           { return UUID{15: n} }
func topicID(n int) log.TopicID  { return log.TopicID{0: 1, 14: byte(n >> 8), 15: byte(n)} }
func one(n int32) [][]int32      { return [][]int32{{n}} }
func held(nonces ...byte) []UUID { return uuids(nonces) }

func uuids(ns []byte) (us []UUID) {
	for _, n := range ns {
		us = append(us, uuid(n))
	}
	return us
}

func mustApply(t testing.TB, im *Image, cmds ...Command) *Image {
	t.Helper()
	for _, c := range cmds {
		next, _, err := im.Apply(c)
		if err != nil {
			t.Fatalf("%T: %v", c, err)
		}
		im = next
	}
	if err := im.Check(); err != nil {
		t.Fatal(err)
	}
	return im
}

func TestRefusals(t *testing.T) {
	im := mustApply(t, NewImage(),
		&RegisterBroker{ClusterID: "c", UUID: uuid(1), Nonce: uuid(11)},
		&CreateTopic{Name: "a", ID: topicID(1), Assignment: one(1)},
	)
	v := im.Topic("a").Version
	tooMany := map[string]string{}
	for i := range maxConfigs + 1 {
		tooMany[fmt.Sprint(i)] = ""
	}
	for name, c := range map[string]struct {
		cmd  Command
		want error
	}{
		"another cluster (C3)":           {&RegisterBroker{ClusterID: "d", UUID: uuid(9), Nonce: uuid(91)}, ErrRefused},
		"no cluster":                     {&RegisterBroker{UUID: uuid(9), Nonce: uuid(91)}, ErrRefused},
		"old copy of a directory (E5)":   {&RegisterBroker{ClusterID: "c", UUID: uuid(1), Nonce: uuid(12), Held: held(10, 12)}, ErrRefused},
		"too many nonces":                {&RegisterBroker{ClusterID: "c", UUID: uuid(1), Nonce: uuid(12), Held: make([]UUID, MaxNonces+1)}, ErrRefused},
		"name taken":                     {&CreateTopic{Name: "a", ID: topicID(2), Assignment: one(1)}, ErrExists},
		"id taken":                       {&CreateTopic{Name: "b", ID: topicID(1), Assignment: one(1)}, ErrExists},
		"no name":                        {&CreateTopic{ID: topicID(2), Assignment: one(1)}, ErrRefused},
		"no partition":                   {&CreateTopic{Name: "b", ID: topicID(2)}, ErrRefused},
		"no replica":                     {&CreateTopic{Name: "b", ID: topicID(2), Assignment: [][]int32{{}}}, ErrRefused},
		"unknown replica":                {&CreateTopic{Name: "b", ID: topicID(2), Assignment: one(7)}, ErrRefused},
		"replica twice":                  {&CreateTopic{Name: "b", ID: topicID(2), Assignment: [][]int32{{1, 1}}}, ErrRefused},
		"too many configs":               {&CreateTopic{Name: "b", ID: topicID(2), Assignment: one(1), Configs: tooMany}, ErrRefused},
		"too long a config":              {&AlterConfigs{ID: topicID(1), Expect: v, Set: map[string]string{"k": string(make([]byte, maxConfigBytes+1))}}, ErrRefused},
		"delete an older version (C1)":   {&DeleteTopic{ID: topicID(1), Expect: v - 1}, ErrConflict},
		"delete unknown":                 {&DeleteTopic{ID: topicID(3)}, ErrNotFound},
		"alter an older version (C1)":    {&AlterConfigs{ID: topicID(1), Expect: v + 1}, ErrConflict},
		"partitions, older version (C1)": {&CreatePartitions{ID: topicID(1), Expect: v + 1, Assignment: one(1)}, ErrConflict},
		"no more partitions":             {&CreatePartitions{ID: topicID(1), Expect: v}, ErrRefused},
		"too many partitions":            {&CreatePartitions{ID: topicID(1), Expect: v, Assignment: make([][]int32, MaxPartitions)}, ErrRefused},
		"ids for nobody":                 {&AllocProducerIDs{BrokerID: 7}, ErrNotFound},
		"ids for an older incarnation":   {&AllocProducerIDs{BrokerID: 1, BrokerEpoch: 0}, ErrRefused},
		"ids already given":              {&AllocProducerIDs{BrokerID: 1, BrokerEpoch: im.Broker(1).Epoch, Expect: 1000}, ErrConflict},
	} {
		t.Run(name, func(t *testing.T) {
			next, _, err := im.Apply(c.cmd)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if next != im {
				t.Fatal("a refused command gave another image")
			}
		})
	}
}

// model is what the commands mean, written the plain way.
type model struct {
	topics  map[string]*modelTopic
	epochs  map[byte]int // registrations per broker
	nextPID int64
}

type modelTopic struct {
	id         int
	configs    map[string]string
	partitions int
}

// Random histories against the model; after each command the invariants hold, a snapshot gives the same image, the
// encoded command has the same effect as the command (C1), and the image before is unchanged.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		im := NewImage()
		m := model{topics: map[string]*modelTopic{}, epochs: map[byte]int{}}
		nextID := 0
		name := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		broker := rapid.SampledFrom([]byte{1, 2, 3})
		do := func(cmd Command) (any, error) {
			data, err := EncodeCommand(cmd)
			if err != nil {
				rt.Fatal(err)
			}
			again, err := DecodeCommand(data)
			if err != nil {
				rt.Fatal(err)
			}
			before := encoded(rt, im)
			next, answer, err := im.Apply(cmd)
			other, _, err2 := im.Apply(again)
			if (err == nil) != (err2 == nil) || !bytes.Equal(encoded(rt, next), encoded(rt, other)) {
				rt.Fatalf("%T decoded again has another effect", cmd)
			}
			if !bytes.Equal(before, encoded(rt, im)) {
				rt.Fatalf("%T changed the image it was applied to", cmd)
			}
			if err == nil && next.Version != im.Version+1 {
				rt.Fatalf("%T: version %d follows %d", cmd, next.Version, im.Version)
			}
			im = next
			return answer, err
		}
		assignment := func(n int) (as [][]int32) {
			for range n {
				ids := []int32{}
				for _, b := range im.Brokers() {
					ids = append(ids, b.ID)
				}
				ids = rapid.Permutation(ids).Draw(rt, "replicas")
				as = append(as, ids)
			}
			return as
		}
		rt.Repeat(map[string]func(*rapid.T){
			"register": func(rt *rapid.T) {
				b := broker.Draw(rt, "broker")
				n := byte(10*int(b) + m.epochs[b]%10)
				cmd := &RegisterBroker{ClusterID: "c", UUID: uuid(b), Nonce: uuid(n + 1), Held: held(n, n+1)}
				if m.epochs[b]%10 == 9 {
					cmd.Nonce, cmd.Held = uuid(10*b), held(n)
				}
				if _, err := do(cmd); err != nil {
					rt.Fatal(err)
				}
				m.epochs[b]++
			},
			"create": func(rt *rapid.T) {
				if len(m.epochs) == 0 {
					rt.Skip("no broker yet")
				}
				n := name.Draw(rt, "name")
				as := assignment(rapid.IntRange(1, 3).Draw(rt, "partitions"))
				nextID++
				_, err := do(&CreateTopic{Name: n, ID: topicID(nextID), Assignment: as, Configs: map[string]string{"k": n}})
				if m.topics[n] != nil {
					if !errors.Is(err, ErrExists) {
						rt.Fatalf("created twice: %v", err)
					}
					return
				}
				m.topics[n] = &modelTopic{id: nextID, configs: map[string]string{"k": n}, partitions: len(as)}
			},
			"delete": func(rt *rapid.T) {
				n := name.Draw(rt, "name")
				if mt := m.topics[n]; mt != nil {
					if _, err := do(&DeleteTopic{ID: topicID(mt.id), Expect: im.Topic(n).Version}); err != nil {
						rt.Fatal(err)
					}
					delete(m.topics, n)
				}
			},
			"grow": func(rt *rapid.T) {
				n := name.Draw(rt, "name")
				if mt := m.topics[n]; mt != nil {
					as := assignment(1)
					if _, err := do(&CreatePartitions{ID: topicID(mt.id), Expect: im.Topic(n).Version, Assignment: as}); err != nil {
						rt.Fatal(err)
					}
					mt.partitions++
				}
			},
			"alter": func(rt *rapid.T) {
				n := name.Draw(rt, "name")
				if mt := m.topics[n]; mt != nil {
					k, v := rapid.SampledFrom([]string{"k", "l"}).Draw(rt, "key"), rapid.StringN(0, 3, 9).Draw(rt, "value")
					if _, err := do(&AlterConfigs{ID: topicID(mt.id), Expect: im.Topic(n).Version, Set: map[string]string{k: v}, Delete: []string{"k"}}); err != nil {
						rt.Fatal(err)
					}
					delete(mt.configs, "k")
					mt.configs[k] = v
				}
			},
			"producer ids": func(rt *rapid.T) {
				if len(im.Brokers()) == 0 {
					rt.Skip("no broker yet")
				}
				b := im.Brokers()[0]
				answer, err := do(&AllocProducerIDs{BrokerID: b.ID, BrokerEpoch: b.Epoch, Expect: im.NextProducerID})
				if err != nil || answer.(ProducerIDs).First != m.nextPID {
					rt.Fatalf("got %v %v, want a block from %d", answer, err, m.nextPID)
				}
				m.nextPID += ProducerIDBlock
			},
			"": func(rt *rapid.T) {
				if err := im.Check(); err != nil {
					rt.Fatal(err)
				}
				back, err := DecodeImage(bytes.NewReader(encoded(rt, im)))
				if err != nil || !bytes.Equal(encoded(rt, back), encoded(rt, im)) {
					rt.Fatalf("the snapshot gives another image: %v", err)
				}
				m.compare(rt, im)
			},
		})
	})
}

func encoded(t rapid.TB, im *Image) []byte {
	var b bytes.Buffer
	if err := im.Encode(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (m *model) compare(t *rapid.T, im *Image) {
	if len(im.Topics()) != len(m.topics) || len(im.Brokers()) != len(m.epochs) || im.NextProducerID != m.nextPID {
		t.Fatalf("%d topics, %d brokers, next producer %d; want %d, %d, %d",
			len(im.Topics()), len(im.Brokers()), im.NextProducerID, len(m.topics), len(m.epochs), m.nextPID)
	}
	for n, mt := range m.topics {
		topic := im.Topic(n)
		if topic == nil || topic.ID != topicID(mt.id) || im.TopicByID(topic.ID) != topic || !maps.Equal(topic.Configs, mt.configs) {
			t.Fatalf("topic %q is %+v, want %+v", n, topic, mt)
		}
		if len(topic.Partitions) != mt.partitions {
			t.Fatalf("topic %q: %d partitions, want %d", n, len(topic.Partitions), mt.partitions)
		}
	}
}

// A mark to be drained is the operator's, not the process's: it stays over a restart, changes no partition, and goes when it is taken back.
func TestDrainBroker(t *testing.T) {
	im := mustApply(t, NewImage(),
		&RegisterBroker{ClusterID: "cluster", UUID: uuid(1), Nonce: uuid(11)}, &RegisterBroker{ClusterID: "cluster", UUID: uuid(2), Nonce: uuid(12)},
		&CreateTopic{Name: "t", ID: topicID(1), Assignment: [][]int32{{2, 1}}})
	marked := mustApply(t, im, &DrainBroker{BrokerID: 2})
	if got := marked.Topic("t").Partitions[0]; !marked.Broker(2).Draining || marked.Broker(1).Draining || got.Leader != 2 || len(got.ISR) != 2 || im.Broker(2).Draining {
		t.Errorf("broker %+v, partition %+v", marked.Broker(2), got)
	}
	again := mustApply(t, marked, &RegisterBroker{ClusterID: "cluster", UUID: uuid(2), Nonce: uuid(13), Held: held(12, 13)})
	if !again.Broker(2).Draining {
		t.Error("a restart forgets it")
	}
	if back := mustApply(t, again, &DrainBroker{BrokerID: 2, Stays: true}); back.Broker(2).Draining {
		t.Error("it cannot be taken back")
	}
	for _, c := range []struct {
		im   *Image
		cmd  *DrainBroker
		want error
	}{
		{im, &DrainBroker{BrokerID: 3}, ErrNotFound}, {im, &DrainBroker{BrokerID: 2, Stays: true}, ErrConflict}, {marked, &DrainBroker{BrokerID: 2}, ErrConflict},
	} {
		if _, _, err := c.im.Apply(c.cmd); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", c.cmd, err, c.want)
		}
	}
}
