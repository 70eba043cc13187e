package kafka

import (
	"crypto/tls"
	"fmt"
	"maps"
	"net/netip"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster/access"
)

// Who a client is, and whether he may do what he asks for. A rule that names a topic, a group, a transactional id or the cluster is asked for by its name, with
// the operation that Apache Kafka documents for the request ("ACL operations" in its manual).
//
// Guards (guard_topics.go, guard_groups.go, guard_cluster.go) stand around the handlers: what a client may not touch is taken out of the request before the
// handler sees it, and answered beside. Produce and Fetch, which decode for themselves, ask on their own. A client whom no rule can concern passes no guard.

// who is whose requests a connection brings.
type who struct {
	principal string // User:NAME; until he has proved more, User:ANONYMOUS
	host      string // his address, without a port
	admin     bool   // everything is allowed
}

func anonymous(addr string) who {
	w := who{principal: access.Anonymous, host: addr}
	if at, err := netip.ParseAddrPort(addr); err == nil {
		w.host = at.Addr().Unmap().WithZone("").String()
	}
	return w
}

// certified takes the name of a verified client certificate, as Kafka does: the distinguished name.
func (w *who) certified(state tls.ConnectionState) {
	if len(state.VerifiedChains) > 0 {
		w.principal = access.Principal(state.PeerCertificates[0].Subject.String())
	}
}

// guarded says whether any rule can concern c's requests. Where none is kept, and nobody has to say who he is, everything goes on as if there were no guards.
func (s *Server) guarded(c *conn) bool {
	return !c.who.admin && (s.cfg.Auth != nil || len(s.broker.Image().Rules().Rules()) > 0)
}

// may says whether c's client may do op to the named resource. Where clients prove who they are (Config.Auth), what no rule allows is refused; elsewhere what no rule is
// about is open to all, as with Kafka's allow.everyone.if.no.acl.found.
func (s *Server) may(c *conn, op access.Operation, kind access.Resource, name string) bool {
	return c.who.admin || s.granted(s.broker.Image().Rules().Decide(c.who.principal, c.who.host, op, kind, name))
}

// mayAny says whether c's client may do op to any resource of the kind.
func (s *Server) mayAny(c *conn, op access.Operation, kind access.Resource) bool {
	return c.who.admin || s.granted(s.broker.Image().Rules().DecideAny(c.who.principal, c.who.host, op, kind))
}

func (s *Server) granted(d access.Decision) bool {
	return d == access.Granted || d == access.Silent && s.cfg.Auth == nil
}

func (s *Server) mayCluster(c *conn, op access.Operation) bool {
	return s.may(c, op, access.Cluster, access.ClusterName)
}

func (s *Server) mayTopic(c *conn, op access.Operation, name string) bool {
	return s.may(c, op, access.Topic, name)
}

func (s *Server) mayGroup(c *conn, op access.Operation, name string) bool {
	return s.may(c, op, access.Group, name)
}

// mayTopicID is mayTopic by the id; a topic that is not there is the handler's to answer for.
func (s *Server) mayTopicID(c *conn, op access.Operation, id [16]byte) bool {
	t := s.topicByID(id)
	return t == nil || s.mayTopic(c, op, t.Name)
}

// operations are the bits of those of a kind that c's client may do to a resource, which all are what Kafka answers without an authorizer.
func (s *Server) operations(c *conn, all int32, kind access.Resource, name string) (bits int32) {
	for op := access.Read; op <= access.IdempotentWrite; op++ {
		if bit := int32(1) << op; all&bit != 0 && s.may(c, op, kind, name) {
			bits |= bit
		}
	}
	return bits
}

// guard looks at a request before its handler does, and takes out what c's client may not touch. denied, where there is one, is the whole answer, a refusal; else
// after, where there is one, adds to the handler's.
type guard func(s *Server, c *conn, req kmsg.Request) (denied kmsg.Response, after func(kmsg.Response))

// guards are those of all requests but the ones that are unguarded.
func guards() map[int16]guard {
	all := topicGuards()
	maps.Copy(all, groupGuards())
	maps.Copy(all, clusterGuards())
	return all
}

// unguarded are the keys that have no guard, and why.
var unguarded = map[int16]string{
	keyProduce:     "asks for itself",
	keyFetch:       "asks for itself",
	keyApiVersions: "open to all",
	17:             "open to all",
	36:             "open to all",
}

// guarding makes a guard of a function of the request's own type.
func guarding[R kmsg.Request](fn func(s *Server, c *conn, req R) (kmsg.Response, func(kmsg.Response))) guard {
	return func(s *Server, c *conn, req kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
		return fn(s, c, req.(R))
	}
}

// take moves what is refused out of list.
func take[T any](list *[]T, refused func(*T) bool) (out []T) {
	kept := make([]T, 0, len(*list))
	for i := range *list {
		if t := &(*list)[i]; refused(t) {
			out = append(out, *t)
		} else {
			kept = append(kept, *t)
		}
	}
	if out != nil {
		*list = kept
	}
	return out
}

// forbid is take for what c's client may not touch.
func forbid[T any](c *conn, list *[]T, refused func(*T) bool) (out []T) {
	out = take(list, refused)
	c.unauthorized = c.unauthorized || out != nil
	return out
}

// refusal is what a client is told who may not do something; like Kafka's it does not name the rule.
func refusal(c *conn, op string, of string) *string {
	return new(fmt.Sprintf("%s may not %s %s: no rule allows it, or one denies it; see kafka-acls.sh --list", c.who.principal, op, of))
}

// Given is what the node's own file says of users and rules. Requests show it, and do not change it: a file is for its operator to change. Methods are called concurrently.
type Given interface {
	// Rules are the file's, in the words of Kafka's.
	Rules() []access.Rule
	// Where names the file and what to do there, for who wants to change it by a request.
	Where() string
	// User says whether the file has the user.
	User(name string) bool
}
