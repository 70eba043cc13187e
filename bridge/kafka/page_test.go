package kafka

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The pages that this room's table ends in.
const (
	pageFile  = "../../deploy/docs/kafka-protocol.md"
	traceFile = "../../cmd/weir/e2e/testdata/kafka_trace.txt"
)

// stages of the project's architecture, of every key that it plans to serve.
var stages = func() map[int16]int {
	stages := make(map[int16]int)
	for stage, keys := range [][]int16{
		1: {0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 32, 36, 37, 42, 44, 60},
		2: {29, 30, 31, 33, 34, 35, 43, 45, 46, 47, 48, 49, 50, 51, 61, 64, 74},
		3: {24, 25, 26, 27, 28, 65, 66, 68, 69, 71, 72, 75},
	} {
		for _, key := range keys {
			stages[key] = stage
		}
	}
	return stages
}()

const pageHead = `# The Kafka protocol

Generated from the table of requests in bridge/kafka/keys.go and from a trace of what real clients ask; do not edit. ` + "`make protocol`" + ` writes it anew.

A request that is not listed here, or in a version that is not, ends the connection, as with Apache Kafka: clients learn what there is
from ApiVersions. Produce 0 to 2 are listed and answered with UNSUPPORTED_VERSION (KAFKA-18659).

- **Stage** is when the project's plan has a request: 1 produce, fetch and classic groups; 2 administration; 3 transactions and what came later.
- **Clients** are those that were seen to ask, each with the highest version that it did: in bold where that is the newest served here. The
  trace is of these, run against a node through a recorder that changes nothing: %s.

| Key | Request | Versions | Stage | Clients |
| ---: | --- | --- | ---: | --- |
`

const pageTail = `
## What to know

- **Fetch**: topics by name (to 12) and by id (from 13). Incremental fetch sessions (KIP-227) are kept for a thousand clients of up to 4096 partitions, or 4 MiB a node; who finds no room
  fetches without one. A session ends with the node, or when it was idle for two minutes and another one needs the room.
- **Racks** (KIP-392): each node's zone is its rack in the metadata. A consumer that sets client.rack, and does not read read_committed, is sent by the leader to
  an in-sync replica in that zone, and reads there what the replica knows to be committed. librdkafka reads read_committed unless told otherwise.
  A replica that has fallen behind or is cut off sends its consumers back, and the leader keeps them for a minute. Where the replica is gone, franz-go
  comes back only after its RecheckPreferredReplicaInterval, half an hour.
- **Leaders**: an answer NOT_LEADER_OR_FOLLOWER names the leader and its epoch from Fetch 12 and Produce 10 on, and its address from Fetch 16 and Produce 10 on
  (KIP-951).
- **ListOffsets**: there is no tiered storage. The earliest local offset is the log's, the latest tiered and the earliest pending one are -1.
- **Produce** names topics by id from 13 on.
- **Transactions** are of version 2 with clients that look for the feature transaction.version, which is 2 (KIP-890): Produce 12 and TxnOffsetCommit 5 make what they name
  part of the transaction, without AddPartitionsToTxn and AddOffsetsToTxn, and EndTxn 5 gives the producer another epoch for the next one. Clients of version 1 are
  served as before, with the same transactional ids.
- **Rules and users** (keys 29–31, 50, 51): see [security.md](security.md). Quotas (48, 49): see [quotas.md](quotas.md).
- **ApiVersions** 5: a client that has come to another node, or another cluster, than it thinks is sent back to the addresses that it began with (KIP-1242).
`

// TestProtocolPage holds the page against the table and the trace.
func TestProtocolPage(t *testing.T) {
	clients, asked := readTrace(t)
	var page strings.Builder
	fmt.Fprintf(&page, pageHead, clients)
	_, listed := table()
	for _, k := range listed {
		stage := stages[k.ApiKey]
		if stage == 0 {
			t.Errorf("key %d is in no stage of the plan", k.ApiKey)
		}
		var by []string
		for _, a := range asked[k.ApiKey] {
			if a.version == k.MaxVersion {
				by = append(by, fmt.Sprintf("**%s %d**", a.client, a.version))
			} else {
				by = append(by, fmt.Sprintf("%s %d", a.client, a.version))
			}
			if a.version > k.MaxVersion || a.version < k.MinVersion {
				t.Errorf("%s asks for version %d of key %d, which is not served: the trace is out of date", a.client, a.version, k.ApiKey)
			}
		}
		fmt.Fprintf(&page, "| %d | %s | %d–%d | %d | %s |\n", k.ApiKey, kmsg.NameForKey(k.ApiKey), k.MinVersion, k.MaxVersion, stage, strings.Join(by, ", "))
	}
	page.WriteString(pageTail)
	if *update {
		if err := os.WriteFile(pageFile, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(pageFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != page.String() {
		t.Errorf("%s is out of date: make protocol", pageFile)
	}
}

type traced struct {
	client  string
	version int16
}

// readTrace reads what the end-to-end test with the clients has written.
func readTrace(t *testing.T) (clients string, asked map[int16][]traced) {
	t.Helper()
	b, err := os.ReadFile(traceFile)
	if err != nil {
		t.Fatal(err)
	}
	asked = make(map[int16][]traced)
	for line := range strings.Lines(string(b)) {
		if names, ok := strings.CutPrefix(line, "# clients: "); ok {
			clients = strings.TrimSpace(names)
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		var key int16
		var name string
		var a traced
		if _, err := fmt.Sscan(line, &key, &name, &a.client, &a.version); err != nil {
			t.Fatalf("%s: %q: %v", traceFile, line, err)
		}
		asked[key] = append(asked[key], a)
	}
	return clients, asked
}
