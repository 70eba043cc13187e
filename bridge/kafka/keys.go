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

// rawHandler is the hot path: it decodes the body itself. It must free r, and complete
// rep exactly once, at any later time and from any goroutine; or return an error before
// it has completed rep, which closes the connection.
type rawHandler func(s *Server, ctx context.Context, c *conn, r *request, rep *reply) error

// api is one row of the table: what ApiVersions lists, and who answers.
type api struct {
	key      int16
	min, max int16 // versions served
	listZero bool  // listed from version 0; versions below min are refused with a code
	flexible int16 // first version with compact encodings and tagged fields
	open     bool  // served before authentication

	handle handler    // one of the two
	raw    rawHandler // the body is decoded by the handler
}

const never int16 = 1<<15 - 1 // as the first flexible version

// coreAPIs are the keys that need no consumer group; groupAPIs (groups.go) has the others.
//
// Together they are what ApiVersions advertises, exactly. testdata/apis.golden freezes
// them, so that a change is a decision; a row is added only with its tests.
func coreAPIs() []api {
	return []api{
		{key: 17, min: 0, max: 1, flexible: never, open: true, handle: (*Server).saslHandshake},
		{key: keyApiVersions, min: 0, max: 4, flexible: 3, open: true, handle: (*Server).apiVersions},
		{key: 36, min: 0, max: 2, flexible: 2, open: true, handle: (*Server).saslAuthenticate},
	}
}

// table indexes the rows by key, and makes the list that ApiVersions answers with.
func table() (byKey map[int16]*api, listed []kmsg.ApiVersionsResponseApiKey) {
	byKey = make(map[int16]*api)
	for _, a := range slices.Concat(coreAPIs(), groupAPIs()) {
		if byKey[a.key] != nil {
			panic("BUG: two handlers for one key")
		}
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
