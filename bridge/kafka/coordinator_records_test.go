package kafka

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-io/weir/bridge/group"
	"github.com/weir-io/weir/bridge/group/assign"
)

var discardLogs = slog.New(slog.DiscardHandler)

// The bytes are those that Apache Kafka writes: schemas OffsetCommitKey 1,
// OffsetCommitValue 3 and 1, GroupMetadataKey 2, GroupMetadataValue 3.
func TestOffsetsTopicFormat(t *testing.T) {
	at := group.TopicPartition{Topic: "t", Partition: 5}
	check := func(name string, got []byte, want string) {
		t.Helper()
		if hex.EncodeToString(got) != want {
			t.Errorf("%s:\n got %x\nwant %s", name, got, want)
		}
	}
	key, value := encodeOffset("g", &group.Write{At: at, Offset: group.Offset{Offset: 258, LeaderEpoch: 3, Metadata: "m", CommitTime: 1000, ExpireTime: -1}})
	check("offset key", key, "0001"+"000167"+"000174"+"00000005")
	check("offset value", value, "0003"+"0000000000000102"+"00000003"+"00016d"+"00000000000003e8")
	_, value = encodeOffset("g", &group.Write{At: at, Offset: group.Offset{Offset: 258, CommitTime: 1000, ExpireTime: 2000}})
	check("offset value with a time to expire", value, "0001"+"0000000000000102"+"0000"+"00000000000003e8"+"00000000000007d0")
	if _, value = encodeOffset("g", &group.Write{At: at, Forget: true}); value != nil {
		t.Errorf("removal of an offset: %x", value)
	}
	key, value = encodeGroup("g", &group.Snapshot{
		Generation: 2, ProtocolType: "consumer", Protocol: "range", Leader: "a", Since: time.UnixMilli(1000),
		Members: []group.SnapshotMember{{
			ID: "a", Instance: "i", ClientID: "c", Host: "/h", Session: 10 * time.Second, Rebalance: 30 * time.Second,
			Metadata: []byte{1}, Assignment: []byte{2, 3},
		}},
	})
	check("group key", key, "0002"+"000167")
	check("group value", value, "0003"+"0008"+hex.EncodeToString([]byte("consumer"))+"00000002"+"0005"+hex.EncodeToString([]byte("range"))+"000161"+"00000000000003e8"+
		"00000001"+"000161"+"000169"+"000163"+"00022f68"+"00007530"+"00002710"+"00000001"+"01"+"00000002"+"0203")
	_, value = encodeGroup("g", &group.Snapshot{Generation: 3, ProtocolType: "consumer", Since: time.UnixMilli(0)})
	check("empty group", value, "0003"+"0008"+hex.EncodeToString([]byte("consumer"))+"00000003"+"ffff"+"ffff"+"0000000000000000"+"00000000")
}

// Java's "…".hashCode().
func TestPartitionOfGroup(t *testing.T) {
	for name, hash := range map[string]int32{"": 0, "abc": 96354, "connect-cluster": 1440343063, "größe": 98762257, "😀": 1772899, "polygenelubricants": -1 << 31} {
		c := &coordinator{cfg: coordinatorConfig{partitions: 1 << 30}}
		want := max(hash, -hash) % (1 << 30)
		if hash == -1<<31 {
			want = 0
		}
		if got := c.partitionOf(name); got != want {
			t.Errorf("%q: partition %d, want %d", name, got, want)
		}
	}
}

// Entries that make no sense are left out; what is after them is read.
func TestLoadSkipsBadEntries(t *testing.T) {
	table := newFakeTable(t, 1)
	good := func(topic string) entry {
		k, v := encodeOffset("g", &group.Write{At: group.TopicPartition{Topic: topic}, Offset: group.Offset{Offset: 5, ExpireTime: -1}})
		return entry{k, v}
	}
	cut := good("cut")
	cut.value = cut.value[:7]
	gone := entry{good("gone").key, nil}
	foreign := entry{[]byte{0, 9, 1, 2, 3}, []byte{1}}
	gk, gv := encodeGroup("g", &group.Snapshot{Generation: 1, ProtocolType: "consumer", Protocol: "range", Leader: "nobody", Members: []group.SnapshotMember{{ID: "a"}, {ID: "a"}, {}}})
	table.parts[0] = []entry{{nil, nil}, {[]byte{}, []byte{1}}, {[]byte{0}, []byte{1}}, {[]byte{0, 1, 0, 200}, []byte{1}}, cut, foreign,
		{gk, gv[:len(gv)-3]}, {gk, gv}, good("t"), good("gone"), gone}
	n := startGroups(t, table, GroupConfig{}).loaded()
	if off := n.offset("g", "t", 0); off != 5 {
		t.Errorf("offset %d, want 5", off)
	}
	if off := n.offset("g", "gone", 0); off != -1 {
		t.Errorf("offset %d of a removed entry", off)
	}
	if d := n.describe("g"); d.State != "Stable" || len(d.Members) != 1 {
		t.Errorf("described as %+v", d)
	}
	if bad := n.c.n.badRecords.Load(); bad != 4 {
		t.Errorf("%d bad entries counted, want 4", bad)
	}
}

// A damaged partition of __consumer_offsets costs its own groups, not the node and not the groups of others.
func TestDamagedOffsetsPartitionLeavesOtherGroups(t *testing.T) {
	table := newFakeTable(t, 2)
	table.offline = map[int32]bool{0: true}
	n := startGroups(t, table, GroupConfig{})
	var sound, lost string
	for i := 0; sound == "" || lost == ""; i++ {
		if id := fmt.Sprintf("g%d", i); n.c.partitionOf(id) == 0 {
			lost = id
		} else {
			sound = id
		}
	}
	serves := func(p int32) int16 { _, code := n.c.serves(p); return code }
	for serves(1) != errNone || serves(0) == errCoordinatorLoadInProgress {
		select {
		case err := <-n.ended:
			n.cancel = nil
			t.Fatalf("run ended: %v", err)
		default:
			runtime.Gosched()
		}
	}
	if code := n.member(lost).commit("t", 0, 5); code != errCoordinatorNotAvailable {
		t.Errorf("commit of a group in the damaged partition: %d", code)
	}
	if code := n.member(sound).commit("t", 0, 5); code != errNone {
		t.Errorf("commit of another group: %d", code)
	}
	groups, code := n.c.list(nil, nil)
	if len(groups) != 1 || groups[0].Group != sound || code != errCoordinatorNotAvailable {
		t.Errorf("list: %+v, %d: want the other group, and that some are missing", groups, code)
	}
}

// What a newer version wrote is not passed over: its offsets would be lost.
func TestLoadRefusesNewerFormats(t *testing.T) {
	table := newFakeTable(t, 1)
	k, v := encodeOffset("g", &group.Write{At: group.TopicPartition{Topic: "t"}, Offset: group.Offset{Offset: 5, ExpireTime: -1}})
	v[1] = offsetValueVersion + 1
	table.parts[0] = []entry{{k, v}}
	n := startGroups(t, table, GroupConfig{})
	n.cancel = nil
	if err := <-n.ended; !errors.Is(err, errNewerFormat) {
		t.Errorf("run: %v", err)
	}
	if d := n.describe("g"); d.ErrorCode != errCoordinatorLoadInProgress {
		t.Errorf("described as %+v", d)
	}
}

// FuzzOffsetsTopic: no bytes make a panic; what could be read is written back
// to the same, and a group made of it holds its invariants.
func FuzzOffsetsTopic(f *testing.F) {
	k, v := encodeOffset("g", &group.Write{At: group.TopicPartition{Topic: "t", Partition: 5}, Offset: group.Offset{Offset: 1, Metadata: "m", ExpireTime: -1}})
	f.Add(k, v)
	k, v = encodeGroup("g", &group.Snapshot{Generation: 2, ProtocolType: "consumer", Protocol: "range", Leader: "a", Members: []group.SnapshotMember{{ID: "a", Instance: "i", Metadata: []byte{1}, Assignment: []byte{2}}}})
	f.Add(k, v)
	for _, r := range []group.Record{
		{Kind: group.EpochRecord, Epoch: 3}, {Kind: group.TargetEpochRecord, Epoch: 2},
		{Kind: group.MemberRecord, Member: "m", Info: &group.Consumer{ID: "m", Instance: "i", Topics: []string{"t"}, Pattern: "u"}},
		{Kind: group.TargetRecord, Member: "m", Partitions: assign.Set{{Index: 1}}},
		{Kind: group.CurrentRecord, Member: "m", Epoch: 2, Seen: 1, Partitions: assign.Set{{Index: 1}}, Revoking: assign.Set{{Index: 2}}},
	} {
		k, v := encodeConsumerRecord("g", &r)
		f.Add(k, v)
	}
	cfg := group.Config{}.Defaults()
	f.Fuzz(func(t *testing.T, key, value []byte) {
		gs := storedGroups{}
		if err := gs.add(string(key), value); err != nil {
			return
		}
		for id, st := range gs {
			again := storedGroups{}
			if st.snapshot != nil {
				g := group.Restore(id, &cfg, st.snapshot, time.Unix(1, 0))
				if err := g.Check(); err != nil {
					t.Fatal(err)
				}
				k, v := encodeGroup(id, st.snapshot)
				if err := again.add(string(k), v); err != nil {
					t.Fatal(err)
				}
			}
			if st.consumers != nil {
				g := st.restore(id, &cfg, time.Unix(1, 0))
				if err := g.Check(); err != nil {
					t.Fatal(err)
				}
				for member, m := range st.consumers.Members {
					for _, r := range []group.Record{
						{Kind: group.TargetRecord, Member: member, Partitions: m.Target},
						{Kind: group.CurrentRecord, Member: member, Epoch: m.Epoch, Seen: m.Seen, Partitions: m.Assigned, Revoking: m.Revoking},
					} {
						k, v := encodeConsumerRecord(id, &r)
						if err := again.add(string(k), v); err != nil {
							t.Fatal(err)
						}
					}
					if got := again.get(id).consumers.Members[member]; !got.Target.Equal(m.Target) || !got.Assigned.Equal(m.Assigned) || !got.Revoking.Equal(m.Revoking) {
						t.Fatalf("%+v was %+v", got, m)
					}
				}
			}
			for at, o := range st.offsets {
				k, v := encodeOffset(id, &group.Write{At: at, Offset: o})
				if err := again.add(string(k), v); err != nil {
					t.Fatal(err)
				}
				if o.ExpireTime >= 0 {
					o.LeaderEpoch = -1
				}
				if diff := cmp.Diff(o, again.get(id).offsets[at]); diff != "" && o.ExpireTime >= -1 {
					t.Fatal(diff)
				}
			}
		}
	})
}
