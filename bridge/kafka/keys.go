package kafka

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Keys that the code names.
const (
	keyProduce     int16 = 0
	keyFetch       int16 = 1
	keyApiVersions int16 = 18
)

// handler answers one request. It runs on the connection's handler goroutine, so the
// requests of one connection are answered one after the other, and it may wait.
//
// ctx ends when the peer is gone or the server stops for good. A handler that waits for
// something that may take long also watches s.draining and then answers at once.
// The request's byte slices are the handler's to keep. A nil response sends nothing; an
// error closes the connection and is logged: only for input that no response can answer.
type handler func(s *Server, ctx context.Context, c *conn, req kmsg.Request) (kmsg.Response, error)

// rawHandler is the hot path: it decodes the body itself. It must free r, put rep in the
// connection's queue before it returns, and complete it exactly once, at any later time and
// from any goroutine. Or it returns an error without having queued rep: that closes the
// connection.
type rawHandler func(s *Server, ctx context.Context, c *conn, r *request, rep *reply) error

// api is one row of the table: what ApiVersions lists, and who answers.
type api struct {
	key      int16
	min, max int16 // versions served
	listZero bool  // listed from version 0; versions below min are refused with a code
	flexible int16 // first version with compact encodings and tagged fields
	open     bool  // served before authentication
	waits    bool  // may wait for minutes: the frame is not charged to the quota meanwhile

	handle handler    // one of the two
	raw    rawHandler // the body is decoded by the handler

	guard   guard               // nil: see unguarded
	request func() kmsg.Request // what the body is decoded into before handle sees it
	shape   *shape              // of the flexible versions, where kmsg decodes; see shape.go
}

// fresh makes the request of a row. kmsg.RequestForKey would do the same for every key that
// Kafka has, and so keep the codecs of all of them in the binary: 2 MB that nobody calls.
func fresh[T any, P interface {
	*T
	kmsg.Request
	Default()
}]() kmsg.Request {
	p := P(new(T))
	p.Default()
	return p
}

// serves says whether a handler sees requests of this version; it answers those that are
// listed only to be refused.
func (a *api) serves(version int16) bool {
	return version <= a.max && (version >= a.min || a.listZero && version >= 0)
}

const never int16 = 1<<15 - 1 // as the first flexible version

// coreAPIs are the keys that need no coordinator; groupAPIs (groups.go), transactionAPIs (transactions.go) and adminAPIs (admin.go) have the others.
//
// Together they are what ApiVersions advertises, exactly (but for weir's own, see Server.private). testdata/apis.golden freezes
// them, so that a change is a decision; a row is added only with its tests.
func coreAPIs() []api {
	return []api{
		{key: keyProduce, min: 3, max: 13, listZero: true, flexible: produceFlexible, raw: (*Server).produce},
		{key: keyFetch, min: 4, max: 18, flexible: fetchFlexible, raw: (*Server).fetch},
		{key: 2, min: 1, max: 11, flexible: 6, request: fresh[kmsg.ListOffsetsRequest], handle: (*Server).listOffsets},
		{key: 3, min: 0, max: 13, flexible: 9, request: fresh[kmsg.MetadataRequest], handle: (*Server).metadata},
		{key: 17, min: 0, max: 1, flexible: never, open: true, request: fresh[kmsg.SASLHandshakeRequest], handle: (*Server).saslHandshake},
		{key: keyApiVersions, min: 0, max: 5, flexible: 3, open: true, request: fresh[kmsg.ApiVersionsRequest], handle: (*Server).apiVersions},
		{key: 19, min: 2, max: 7, flexible: 5, request: fresh[kmsg.CreateTopicsRequest], handle: (*Server).createTopics},
		{key: 20, min: 1, max: 6, flexible: 4, request: fresh[kmsg.DeleteTopicsRequest], handle: (*Server).deleteTopics},
		{key: 21, min: 0, max: 2, flexible: 2, request: fresh[kmsg.DeleteRecordsRequest], handle: (*Server).deleteRecords},
		{key: 22, min: 0, max: 5, flexible: 2, request: fresh[kmsg.InitProducerIDRequest], handle: (*Server).initProducerID},
		{key: 23, min: 2, max: 4, flexible: 4, request: fresh[kmsg.OffsetForLeaderEpochRequest], handle: (*Server).offsetForLeaderEpoch},
		{key: 32, min: 1, max: 4, flexible: 4, request: fresh[kmsg.DescribeConfigsRequest], handle: (*Server).describeConfigs},
		{key: 36, min: 0, max: 2, flexible: 2, open: true, request: fresh[kmsg.SASLAuthenticateRequest], handle: (*Server).saslAuthenticate},
		{key: 37, min: 0, max: 3, flexible: 2, request: fresh[kmsg.CreatePartitionsRequest], handle: (*Server).createPartitions},
		{key: 44, min: 0, max: 1, flexible: 1, request: fresh[kmsg.IncrementalAlterConfigsRequest], handle: (*Server).incrementalAlterConfigs},
		{key: 60, min: 0, max: 2, flexible: 0, request: fresh[kmsg.DescribeClusterRequest], handle: (*Server).describeCluster},
	}
}

// table indexes the rows by key, and makes the list that ApiVersions answers with.
func table() (byKey map[int16]*api, listed []kmsg.ApiVersionsResponseApiKey) {
	byKey = make(map[int16]*api)
	guards := guards()
	for _, a := range slices.Concat(coreAPIs(), groupAPIs(), transactionAPIs(), adminAPIs()) {
		if byKey[a.key] != nil {
			panic("BUG: two handlers for one key")
		}
		if text, ok := shapes[a.key]; ok {
			var err error
			if a.shape, err = parseShape(text); err != nil {
				panic("BUG: " + err.Error())
			}
		}
		a.guard = guards[a.key]
		byKey[a.key] = &a
		k := kmsg.ApiVersionsResponseApiKey{ApiKey: a.key, MinVersion: a.min, MaxVersion: a.max}
		if a.listZero {
			k.MinVersion = 0
		}
		listed = append(listed, k)
	}
	slices.SortFunc(listed, func(a, b kmsg.ApiVersionsResponseApiKey) int { return int(a.ApiKey) - int(b.ApiKey) })
	return byKey, listed
}
