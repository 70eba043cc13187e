package meta

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/weir-io/weir/cluster/access"
)

var update = flag.Bool("update", false, "rewrite testdata; read the difference before committing it")

func examples() []Command {
	return []Command{
		&RegisterBroker{ClusterID: "cluster", UUID: uuid(1), Nonce: uuid(3), Held: held(2, 3), Host: "10.0.0.1", KafkaPort: 9092},
		&CreateTopic{Name: "telemetry", ID: topicID(1), AutoReplicas: true, Configs: map[string]string{"retention.ms": "1000", "cleanup.policy": "compact"}, Assignment: [][]int32{{1, 2}, {2, 1}}},
		&CreateTopic{Name: "__mqtt_sessions", ID: topicID(2), Internal: true, Assignment: one(1)},
		&DeleteTopic{ID: topicID(1), Expect: 7},
		&CreatePartitions{ID: topicID(1), Expect: 7, Assignment: one(1)},
		&AlterConfigs{ID: topicID(1), Expect: 7, Set: map[string]string{"b": "2", "a": "1"}, Delete: []string{"c"}},
		&AllocProducerIDs{BrokerID: 1, BrokerEpoch: 9, Expect: 2000},
		&FenceBrokers{Brokers: []Incarnation{{2, 7}, {3, 8}}},
		&UnfenceBroker{BrokerID: 2, BrokerEpoch: 7},
		&StopBroker{BrokerID: 2, BrokerEpoch: 7},
		&RemoveBroker{BrokerID: 2, BrokerEpoch: 7},
		&AlterPartitions{BrokerID: 1, BrokerEpoch: 3, Changes: []ISRChange{{
			Topic: topicID(1), Index: 1, LeaderEpoch: 4, PartitionEpoch: 9, ISR: []ISRMember{{ID: 1, Epoch: 3}, {ID: 2, Epoch: 7, Proven: true}},
		}}},
		&ElectLeaders{Kind: ElectRecovered, Elect: []Choice{{Topic: topicID(1), Index: 1, PartitionEpoch: 9, Leader: 2, Missing: true}}},
		&Reassign{ID: topicID(1), Expect: 7, Moves: []Move{{Index: 1, Replicas: []int32{2, 3}}}, MinInsync: 2},
		&ReportDamage{BrokerID: 2, BrokerEpoch: 7, Partitions: []PartitionName{{Topic: topicID(1), Index: 1}}},
		&RegisterBroker{ClusterID: "cluster", UUID: uuid(1), Nonce: uuid(2), Peer: "10.0.0.1:7947", Zone: "east", Witness: true, Clean: 7, Replaces: 7},
		&CreateTopic{Name: "telemetry", ID: topicID(1), Assignment: one(1), MinInsync: 2},
		&AlterConfigs{ID: topicID(1), Expect: 7, MinInsync: 2},
		&RegisterBroker{ClusterID: "cluster", UUID: uuid(1), Nonce: uuid(2), Host: "10.0.0.1", KafkaPort: 9092, KafkaTLSPort: 9093},
		&DrainBroker{BrokerID: 2},
		&DrainBroker{BrokerID: 2, Stays: true},
		&AlterRules{Expect: 7, Add: []access.Rule{aRule("User:a", access.Allow)}, Remove: []access.Rule{aRule("User:*", access.Deny)}},
		&AlterCredentials{Expect: 7, Set: []access.Credential{aCredential("a")}, Remove: []CredentialName{{"b", access.SHA512}}},
		&AlterGroupConfigs{Expect: 7, Group: "g", Configs: map[string]string{"consumer.session.timeout.ms": "50000"}},
		&AlterGroupConfigs{Expect: 8, Group: "g"},
		&AlterCredentials{Expect: 7, Set: []access.Credential{aCredential("a")}, Secret: bytes.Repeat([]byte{2}, SecretBytes)},
		&AlterClientQuotas{Expect: 7, Quotas: []ClientQuotas{
			{QuotaEntity{Kinds: QuotaUser | QuotaClient, User: "u"}, map[string]float64{"producer_byte_rate": 1024, "controller_mutation_rate": 0.1}},
			{QuotaEntity{Kinds: QuotaIP, IP: "10.0.0.1"}, nil},
		}},
	}
}

func aRule(principal string, p access.Permission) access.Rule {
	return access.Rule{
		Resource: access.Topic, Pattern: access.Prefixed, Name: "plant", Principal: principal, Host: "*", Operation: access.Read, Permission: p,
	}
}

func aCredential(user string) access.Credential {
	c, err := access.NewCredential(user, access.SHA256, []byte("salt"), bytes.Repeat([]byte{1}, 32), 4096)
	if err != nil {
		panic(err)
	}
	return c
}

// The stored forms do not change by accident: a node must read what it wrote before an upgrade.
func TestStoredForms(t *testing.T) {
	var got bytes.Buffer
	for _, cmd := range examples() {
		b, err := EncodeCommand(cmd)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&got, "%T %s\n", cmd, hex.EncodeToString(b))
		back, err := DecodeCommand(b)
		if err != nil || !reflect.DeepEqual(back, cmd) {
			t.Errorf("%T came back as %+v, %v", cmd, back, err)
		}
	}
	im := mustApply(t, NewImage(),
		&RegisterBroker{ClusterID: "cluster", UUID: uuid(1), Nonce: uuid(3), Host: "10.0.0.1", KafkaPort: 9092},
		&CreateTopic{Name: "telemetry", ID: topicID(1), AutoReplicas: true, Configs: map[string]string{"retention.ms": "1000"}, Assignment: one(1)},
		&CreateTopic{Name: "__mqtt_sessions", ID: topicID(2), Internal: true, Assignment: one(1)})
	fmt.Fprintf(&got, "Image %s\n", hex.EncodeToString(encoded(t, im)))
	ports := mustApply(t, NewImage(), &RegisterBroker{ClusterID: "cluster", UUID: uuid(1), Nonce: uuid(3), Host: "10.0.0.1", KafkaPort: 9092, KafkaTLSPort: 9093})
	fmt.Fprintf(&got, "Image %s\n", hex.EncodeToString(encoded(t, ports)))
	im, err := im.BeginGeneration(1)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&got, "Image %s\n", hex.EncodeToString(encoded(t, im)))
	fmt.Fprintf(&got, "Image %s\n", hex.EncodeToString(encoded(t, mustApply(t, NewImage(),
		&AlterRules{Add: []access.Rule{aRule("User:a", access.Allow)}}, &AlterCredentials{Set: []access.Credential{aCredential("a")}},
		&AlterGroupConfigs{Group: "g", Configs: map[string]string{"a": "1"}}))))
	fmt.Fprintf(&got, "Image %s\n", hex.EncodeToString(encoded(t, mustApply(t, NewImage(), &AlterCredentials{Secret: bytes.Repeat([]byte{2}, SecretBytes)},
		&AlterClientQuotas{Quotas: []ClientQuotas{{QuotaEntity{Kinds: QuotaClient}, map[string]float64{"a": 1}}}}))))

	path := filepath.Join("testdata", "forms.txt")
	if *update {
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("stored forms changed; a new form needs a new version byte and a reader for the old one\n got:\n%s\nwant:\n%s", got.Bytes(), want)
	}
}

func TestUnknownFormsAreRefused(t *testing.T) {
	good, err := EncodeCommand(&DeleteTopic{ID: topicID(1), Expect: 7})
	if err != nil {
		t.Fatal(err)
	}
	flip := func(i int, v byte) []byte { b := bytes.Clone(good); b[i] = v; return b }
	for name, b := range map[string][]byte{
		"empty":         {},
		"newer format":  flip(0, 2),
		"unknown kind":  flip(1, 200),
		"cut":           good[:len(good)-1],
		"more behind":   append(bytes.Clone(good), 0),
		"unknown field": append(append(bytes.Clone(good[:2]), 0xa3), append(bytes.Clone(good[3:]), 0x18, 0x63, 0x00)...),
	} {
		if cmd, err := DecodeCommand(b); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: got %+v, %v", name, cmd, err)
		}
	}
	if _, err := DecodeImage(bytes.NewReader([]byte{2, 0xa0})); !errors.Is(err, ErrFormat) {
		t.Errorf("newer snapshot: %v", err)
	}
}

// Whatever the bytes: no panic, and what is accepted encodes to a form that means the same.
func FuzzDecodeCommand(f *testing.F) {
	for _, cmd := range examples() {
		b, err := EncodeCommand(cmd)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	base := mustApply(f, NewImage(), &RegisterBroker{ClusterID: "cluster", UUID: uuid(1), Nonce: uuid(2)},
		&CreateTopic{Name: "t", ID: topicID(1), Assignment: one(1)})
	f.Fuzz(func(t *testing.T, b []byte) {
		cmd, err := DecodeCommand(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("error without a class: %v", err)
			}
			return
		}
		enc, err := EncodeCommand(cmd)
		if err != nil {
			t.Fatal(err)
		}
		again, err := DecodeCommand(enc)
		if err != nil {
			t.Fatal(err)
		}
		if enc2, _ := EncodeCommand(again); !bytes.Equal(enc, enc2) {
			t.Fatalf("%x encodes as %x, then as %x", b, enc, enc2)
		}
		if next, _, err := base.Apply(cmd); err == nil {
			if err := next.Check(); err != nil {
				t.Fatalf("%+v broke the state: %v", cmd, err)
			}
		}
	})
}

// A damaged snapshot is refused, never half taken.
func FuzzDecodeImage(f *testing.F) {
	im := mustApply(f, NewImage(), &RegisterBroker{ClusterID: "cluster", UUID: uuid(1), Nonce: uuid(2)},
		&CreateTopic{Name: "t", ID: topicID(1), Assignment: one(1)})
	f.Add(encoded(f, im))
	f.Fuzz(func(t *testing.T, b []byte) {
		if im, err := DecodeImage(bytes.NewReader(b)); err == nil {
			if err := im.Check(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
