package kafka

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/access"
	"github.com/weir-io/weir/log"
)

// users lets in everybody whose password is his name. admin may do everything. SCRAM credentials are the broker's.
type users struct{ broker *cluster.Broker }

func (users) AuthenticatePlain(_ context.Context, user, password string) error {
	if user != password {
		return errors.New("wrong password")
	}
	return nil
}

func (users) Admin(user string) bool { return user == "admin" }

func (u users) Credential(user string, m access.Mechanism) (access.Credential, bool) {
	return u.broker.Image().Credential(user, m)
}

// guardedServer has users, a topic t, and nobody but the administrator may do anything.
func guardedServer(t testing.TB, given Given) (addr string, admin *kadm.Client) {
	_, addr, admin = guardedServerOf(t, given)
	return addr, admin
}

func guardedServerOf(t testing.TB, given Given) (s *Server, addr string, admin *kadm.Client) {
	b := openBroker(t)
	s, addr = startServer(t, Config{Broker: b, Auth: users{b}, Given: given})
	admin = kadm.NewClient(as(t, addr, "admin"))
	if _, err := admin.CreateTopic(testContext(t), 1, -1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	return s, addr, admin
}

// as is a client of the user's.
func as(t testing.TB, addr, user string, opts ...kgo.Opt) *kgo.Client {
	return newClient(t, addr, append(opts, kgo.SASL(plain.Auth{User: user, Pass: user}.AsMechanism()))...)
}

func allow(t testing.TB, admin *kadm.Client, b *kadm.ACLBuilder) {
	t.Helper()
	alterACL(t, admin, b.AllowHosts())
}

func alterACL(t testing.TB, admin *kadm.Client, b *kadm.ACLBuilder) {
	t.Helper()
	b.PrefixUser()
	got, err := admin.CreateACLs(testContext(t), b)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range got {
		if r.Err != nil {
			t.Fatalf("%+v: %v", r, r.Err)
		}
	}
}

// full fills a request so that it names one of everything, and that is called t.
func full(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if name := v.Type().Field(i).Name; name != "Version" && name != "UnknownTags" && v.Field(i).CanSet() {
				full(v.Field(i))
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		full(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		full(v.Index(0))
	case reflect.String:
		v.SetString("t")
	}
}

// codesIn are all error codes of an answer.
func codesIn(v reflect.Value, name string) (codes []int16) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			codes = append(codes, codesIn(v.Field(i), v.Type().Field(i).Name)...)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			codes = codesIn(v.Elem(), "")
		}
	case reflect.Slice:
		for i := range v.Len() {
			codes = append(codes, codesIn(v.Index(i), "")...)
		}
	case reflect.Int16:
		if name == "ErrorCode" {
			codes = append(codes, int16(v.Int()))
		}
	}
	return codes
}

// TestEveryRequestIsGuarded: to a user whom no rule allows anything, every request of the table is refused in every version, with a code that says
// so, and counted once; those that only list things, or that everybody may send, say nothing.
func TestEveryRequestIsGuarded(t *testing.T) {
	s, addr, admin := guardedServerOf(t, nil)
	id := mustTopicID(t, admin, "t")
	refusals := []int16{errTopicAuthorizationFailed, errGroupAuthorizationFailed, errClusterAuthorizationFailed, errTransactionalIDNotAuthorized}
	silent := []int16{16, 60, 66} // lists without what may not be seen
	_, listed := table()
	byKey, _ := table()
	for _, k := range listed {
		if a := byKey[k.ApiKey]; (a.guard == nil) == (unguarded[k.ApiKey] == "") {
			t.Errorf("key %d has a guard, and is unguarded, or neither", k.ApiKey)
		}
		if slices.Contains([]int16{17, 18, 36}, k.ApiKey) {
			continue
		}
		for v := byKey[k.ApiKey].min; v <= k.MaxVersion; v++ {
			req := kmsg.RequestForKey(k.ApiKey)
			full(reflect.ValueOf(req).Elem())
			req.SetVersion(v)
			switch r := req.(type) {
			case *kmsg.ProduceRequest:
				r.Acks, r.Topics[0].TopicID, r.Topics[0].Partitions[0].Records = -1, id, batchOf(1, "a")
			case *kmsg.FetchRequest:
				r.Topics[0].TopicID, r.SessionEpoch, r.SessionID = id, -1, 0
			case *kmsg.MetadataRequest:
				if v >= 10 {
					r.Topics[0].TopicID, r.Topics[0].Topic = id, nil
				}
			case *kmsg.DeleteTopicsRequest:
				r.Topics[0].TopicID, r.Topics[0].Topic = id, nil
			case *kmsg.DescribeTopicPartitionsRequest:
				r.Cursor = nil
			case *kmsg.ConsumerGroupHeartbeatRequest:
				r.SubscribedTopicRegex = nil
			case *kmsg.FindCoordinatorRequest:
				if v == 0 {
					r.CoordinatorType = 0
				}
			}
			c := dialAs(t, addr, "nobody")
			before := s.Stats().Unauthorized
			resp := roundTrip[kmsg.Response](c, req)
			if counted := s.Stats().Unauthorized - before; counted != 1 && !slices.Contains(silent, k.ApiKey) || counted > 1 {
				t.Errorf("key %d version %d: counted %d times", k.ApiKey, v, counted)
			}
			codes := codesIn(reflect.ValueOf(resp).Elem(), "")
			codes = slices.DeleteFunc(codes, func(code int16) bool { return code == errNone })
			if len(codes) == 0 != (slices.Contains(silent, k.ApiKey) || k.ApiKey == 35 && v < 3) { // that has no code then
				t.Errorf("key %d version %d: codes %v", k.ApiKey, v, codes)
			}
			for _, code := range codes {
				if !slices.Contains(refusals, code) {
					t.Errorf("key %d version %d: code %d", k.ApiKey, v, code)
				}
			}
			c.Close()
		}
	}
	if got, err := admin.ListTopics(testContext(t)); err != nil || !got.Has("t") || len(got) != 1 {
		t.Errorf("topics are %v, %v", got.Names(), err)
	}
	if got, err := admin.ListGroups(testContext(t)); err != nil || len(got) != 0 {
		t.Errorf("groups are %v, %v", got, err)
	}
}

func mustTopicID(t testing.TB, admin *kadm.Client, topic string) [16]byte {
	t.Helper()
	got, err := admin.ListTopics(testContext(t), topic)
	if err != nil || got[topic].Err != nil {
		t.Fatal(err, got[topic].Err)
	}
	return got[topic].ID
}

// dialAs is a connection of the user's.
func dialAs(t testing.TB, addr, user string) *rawConn {
	c := dialRaw(t, addr)
	roundTrip[*kmsg.SASLHandshakeResponse](c, handshake(1, "PLAIN"))
	if got := roundTrip[*kmsg.SASLAuthenticateResponse](c, authenticate(2, "\x00"+user+"\x00"+user)); got.ErrorCode != errNone {
		t.Fatalf("%s: %d", user, got.ErrorCode)
	}
	return c
}

// Who may write to a topic may not write in the name of a transactional id that is somebody else's: from version 12 on the batch itself makes the partition part of its transaction.
func TestTransactionalIDIsAskedForWithTheBatch(t *testing.T) {
	addr, admin := guardedServer(t, nil)
	allow(t, admin, kadm.NewACLs().Topics("t").Operations(kadm.OpWrite).Allow("mallory"))
	allow(t, admin, kadm.NewACLs().TransactionalIDs("payments").Operations(kadm.OpWrite).Allow("alice"))
	var bb log.BatchBuilder
	bb.SetFlags(log.AttrTransactional)
	bb.SetProducer(7, 0, 0)
	bb.Append(&log.Record{Timestamp: 1, Value: []byte("x")})
	batch := bb.Seal(0, -1)
	id := "payments"
	produce := func(version int16) int16 {
		req := produceRequest(version, "t", -1, batch)
		req.TransactionID = &id
		c := dialAs(t, addr, "mallory")
		defer c.Close()
		return roundTrip[*kmsg.ProduceResponse](c, req).Topics[0].Partitions[0].ErrorCode
	}
	for _, version := range []int16{9, 12} {
		if code := produce(version); code != errTransactionalIDNotAuthorized {
			t.Errorf("version %d, another's id: code %d", version, code)
		}
	}
	allow(t, admin, kadm.NewACLs().TransactionalIDs(id).Operations(kadm.OpWrite).Allow("mallory"))
	if code := produce(12); code == errTransactionalIDNotAuthorized || code == errNone {
		t.Errorf("allowed, and the producer is unknown: code %d", code)
	}
}

// TestRulesBind: what a user may do is what rules allow, from the moment on that they are there, over connections that were there before.
func TestRulesBind(t *testing.T) {
	addr, admin := guardedServer(t, nil)
	ctx := testContext(t)
	alice := as(t, addr, "alice", kgo.DefaultProduceTopic("t"), kgo.UnknownTopicRetries(0))
	write := func() error { return alice.ProduceSync(ctx, kgo.StringRecord("x")).FirstErr() }
	if err := write(); !errors.Is(err, kerr.TopicAuthorizationFailed) && !errors.Is(err, kerr.ClusterAuthorizationFailed) {
		t.Fatalf("a write that no rule allows: %v", err)
	}
	allow(t, admin, kadm.NewACLs().Topics("t").Operations(kadm.OpWrite).Allow("alice"))
	if err := write(); err != nil {
		t.Fatalf("a write that a rule allows: %v", err)
	}
	if _, err := kadm.NewClient(alice).CreateTopic(ctx, 1, -1, nil, "mine"); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("a topic that nobody allowed: %v", err)
	}
	allow(t, admin, kadm.NewACLs().Topics("alice-").ResourcePatternType(kadm.ACLPatternPrefixed).Operations(kadm.OpAll).Allow("alice"))
	if _, err := kadm.NewClient(alice).CreateTopic(ctx, 1, -1, nil, "alice-1"); err != nil {
		t.Errorf("a topic under a prefix of one's own: %v", err)
	}
	if got, err := kadm.NewClient(alice).ListTopics(ctx); err != nil || len(got) != 2 {
		t.Errorf("alice sees %v, %v", got.Names(), err)
	}

	allow(t, admin, kadm.NewACLs().Topics("t").Groups("g").Operations(kadm.OpRead).Allow("bob"))
	reader := as(t, addr, "bob", kgo.ConsumeTopics("t"), kgo.ConsumerGroup("g"), kgo.FetchMaxWait(100*time.Millisecond))
	if got := reader.PollRecords(ctx, 1); got.NumRecords() != 1 || got.Err() != nil {
		t.Fatalf("bob reads %d records, %v", got.NumRecords(), got.Err())
	}
	if err := reader.CommitUncommittedOffsets(ctx); err != nil {
		t.Errorf("bob commits: %v", err)
	}

	// A denial for everybody takes what rules allow, and a fetch that waits already hears of it.
	alterACL(t, admin, kadm.NewACLs().Topics("*").Operations(kadm.OpRead).Deny("*").DenyHosts())
	for {
		if got := reader.PollRecords(ctx, 1); errors.Is(got.Err(), kerr.TopicAuthorizationFailed) {
			break
		} else if ctx.Err() != nil || got.NumRecords() > 0 {
			t.Fatalf("a denied reader got %d records, %v", got.NumRecords(), got.Err())
		}
	}
	if err := write(); err != nil {
		t.Errorf("a write, while reading is denied: %v", err)
	}
}

// TestGroupsTellNoNamesOfTopics: a member's regular expression finds topics that the member may not know of, and the group does not tell of them.
func TestGroupsTellNoNamesOfTopics(t *testing.T) {
	addr, admin := guardedServer(t, nil)
	if _, err := admin.CreateTopic(testContext(t), 1, -1, nil, "secret"); err != nil {
		t.Fatal(err)
	}
	allow(t, admin, kadm.NewACLs().Groups("g").Operations(kadm.OpRead).Allow("eve"))
	c := dialAs(t, addr, "eve")
	defer c.Close()
	beat := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	beat.Version, beat.Group, beat.MemberID, beat.RebalanceTimeoutMillis = 1, "g", "m", 30_000
	beat.SubscribedTopicNames, beat.SubscribedTopicRegex, beat.Topics = []string{}, new(".*"), []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	if got := roundTrip[*kmsg.ConsumerGroupHeartbeatResponse](c, beat); got.ErrorCode != errNone {
		t.Fatalf("beat: %d", got.ErrorCode)
	}
	ask := kmsg.NewPtrConsumerGroupDescribeRequest()
	ask.Version, ask.Groups = 1, []string{"g"}
	got := roundTrip[*kmsg.ConsumerGroupDescribeResponse](c, ask).Groups[0]
	if got.ErrorCode != errTopicAuthorizationFailed || len(got.Members) != 0 {
		t.Errorf("the group: code %d, members %+v", got.ErrorCode, got.Members)
	}
	allow(t, admin, kadm.NewACLs().Topics("t", "secret").Operations(kadm.OpDescribe).Allow("eve"))
	if got = roundTrip[*kmsg.ConsumerGroupDescribeResponse](c, ask).Groups[0]; got.ErrorCode != errNone || len(got.Members) != 1 || len(got.Members[0].Assignment.TopicPartitions) != 2 {
		t.Errorf("the group, with topics that may be known: %+v", got)
	}
}

// A member's regular expression brings him no topic that he may not know of, and one that he named stays his when a rule takes it: his fetches are told why.
func TestRegularExpressionsFindWhatMayBeKnown(t *testing.T) {
	addr, admin := guardedServer(t, nil)
	if _, err := admin.CreateTopics(testContext(t), 2, -1, nil, "open", "named", "secret"); err != nil {
		t.Fatal(err)
	}
	allow(t, admin, kadm.NewACLs().Groups("g").Operations(kadm.OpRead).Allow("eve"))
	allow(t, admin, kadm.NewACLs().Topics("open", "named").Operations(kadm.OpDescribe).Allow("eve"))
	c := dialAs(t, addr, "eve")
	defer c.Close()
	beat := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	beat.Version, beat.Group, beat.MemberID, beat.RebalanceTimeoutMillis = 1, "g", "m", 30_000
	beat.SubscribedTopicNames, beat.SubscribedTopicRegex, beat.Topics = []string{"named"}, new("(open|secret)"), []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	assigned := func() (names []string) {
		t.Helper()
		got := roundTrip[*kmsg.ConsumerGroupHeartbeatResponse](c, beat)
		if got.ErrorCode != errNone || got.Assignment == nil {
			t.Fatalf("%+v", got)
		}
		topics, err := admin.ListTopics(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range got.Assignment.Topics {
			for _, topic := range topics {
				if topic.ID == a.TopicID {
					names = append(names, topic.Topic)
				}
			}
		}
		slices.Sort(names)
		beat.MemberEpoch, beat.SubscribedTopicNames, beat.SubscribedTopicRegex = got.MemberEpoch, nil, nil
		return names
	}
	if got := fmt.Sprint(assigned()); got != "[named open]" {
		t.Errorf("assigned %s", got)
	}
	alterACL(t, admin, kadm.NewACLs().Topics("named").Operations(kadm.OpDescribe).Deny("eve").DenyHosts())
	beat.SubscribedTopicRegex = new("secret")
	if got := fmt.Sprint(assigned()); got != "[named]" {
		t.Errorf("assigned %s when a rule has taken it", got)
	}
}

// TestRulesByRequests: what requests create, describe and delete, with their patterns.
func TestRulesByRequests(t *testing.T) {
	given := fileRules{{Resource: access.Topic, Pattern: access.Literal, Name: "mqtt:plants/#", Principal: "User:plant", Host: "*", Operation: access.Write, Permission: access.Allow}}
	_, admin := guardedServer(t, given)
	ctx := testContext(t)
	allow(t, admin, kadm.NewACLs().Topics("a", "b").Groups("g").Operations(kadm.OpRead, kadm.OpWrite).Allow("u", "v"))
	allow(t, admin, kadm.NewACLs().Topics("a").Operations(kadm.OpRead).Allow("u")) // it is there already
	allow(t, admin, kadm.NewACLs().Topics("a").ResourcePatternType(kadm.ACLPatternPrefixed).Operations(kadm.OpRead).Allow("u"))
	count := func(b *kadm.ACLBuilder) (n int) {
		t.Helper()
		got, err := admin.DescribeACLs(ctx, b)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range got {
			if r.Err != nil {
				t.Fatal(r.Err)
			}
			n += len(r.Described)
		}
		return n
	}
	everything := func() *kadm.ACLBuilder {
		return kadm.NewACLs().AnyResource().Allow().AllowHosts().Deny().DenyHosts().Operations().ResourcePatternType(kadm.ACLPatternAny)
	}
	if got := count(everything()); got != 12+1+1 {
		t.Errorf("%d rules are described", got)
	}
	if got := count(kadm.NewACLs().Topics("abc").Allow().AllowHosts().Operations().ResourcePatternType(kadm.ACLPatternMatch)); got != 1 {
		t.Errorf("%d rules are about abc", got)
	}
	del, err := admin.DeleteACLs(ctx, kadm.NewACLs().Topics("a").Allow("User:u").AllowHosts().Operations().ResourcePatternType(kadm.ACLPatternAny))
	if err != nil || del[0].Err != nil || len(del[0].Deleted) != 3 {
		t.Errorf("deleted %+v, %v", del, err)
	}
	del, err = admin.DeleteACLs(ctx, everything())
	var refused []string
	deleted := 0
	for _, r := range del {
		for _, d := range r.Deleted {
			if d.Err != nil {
				refused = append(refused, fmt.Sprint(d.Name, " ", d.Err, " ", d.ErrMessage))
			} else {
				deleted++
			}
		}
	}
	if err != nil || deleted != 10 || len(refused) != 1 || !strings.Contains(refused[0], "mqtt:plants/#") || !strings.Contains(refused[0], "users.yaml") {
		t.Errorf("deleted %d, refused %v, %v", deleted, refused, err)
	}
	if got := count(everything()); got != 1 {
		t.Errorf("%d rules are left", got)
	}
}

type fileRules []access.Rule

func (f fileRules) Rules() []access.Rule { return f }
func (fileRules) Where() string          { return "users.yaml" }
func (fileRules) User(name string) bool  { return name == "plant" }

func TestRulesThatAreRefused(t *testing.T) {
	addr, _ := guardedServer(t, nil)
	c := dialAs(t, addr, "admin")
	for v := int16(1); v <= 3; v++ {
		req := kmsg.NewPtrCreateACLsRequest()
		req.Version = v
		add := func(kind, pattern, op, permission int8, name, principal, host string) {
			req.Creations = append(req.Creations, kmsg.CreateACLsRequestCreation{
				ResourceType: kmsg.ACLResourceType(kind), ResourcePatternType: kmsg.ACLResourcePatternType(pattern), ResourceName: name,
				Principal: principal, Host: host, Operation: kmsg.ACLOperation(op), PermissionType: kmsg.ACLPermissionType(permission),
			})
		}
		add(2, 3, 3, 3, fmt.Sprint("good", v), "User:a", "*")
		add(2, 2, 3, 3, "match is for filters", "User:a", "*")
		add(7, 3, 3, 3, "a user", "User:a", "*")
		add(2, 3, 3, 3, "no kind of principal", "a", "*")
		resp := roundTrip[*kmsg.CreateACLsResponse](c, req)
		got := []int16{}
		for _, r := range resp.Results {
			got = append(got, r.ErrorCode)
			if (r.ErrorCode != errNone) != (r.ErrorMessage != nil) {
				t.Errorf("%+v", r)
			}
		}
		if !slices.Equal(got, []int16{0, errInvalidRequest, errInvalidRequest, errInvalidRequest}) {
			t.Errorf("v%d: %v", v, got)
		}
		filter := kmsg.NewPtrDescribeACLsRequest()
		filter.Version = v
		if got := roundTrip[*kmsg.DescribeACLsResponse](c, filter); got.ErrorCode != errInvalidRequest {
			t.Errorf("v%d: a filter of nothing: %d", v, got.ErrorCode)
		}
		filter.ResourceType, filter.ResourcePatternType, filter.Operation, filter.PermissionType = 1, 1, 1, 1
		if got := roundTrip[*kmsg.DescribeACLsResponse](c, filter); got.ErrorCode != errNone || len(got.Resources) != int(v) {
			t.Errorf("v%d: %+v", v, got)
		}
	}
}

// Where nobody has to say who he is, what no rule is about stays open, and what a rule is about is for those whom it allows.
func TestRulesWithoutAuthentication(t *testing.T) {
	_, addr := startServer(t, Config{})
	cl := newClient(t, addr)
	admin := kadm.NewClient(cl)
	ctx := testContext(t)
	for _, name := range []string{"open", "closed"} {
		createTopic(t, addr, name, 1, nil)
	}
	allow(t, admin, kadm.NewACLs().Topics("closed").Operations(kadm.OpWrite).Allow("alice"))
	write := func(topic string) error {
		return newClient(t, addr, kgo.UnknownTopicRetries(0)).ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("x")}).FirstErr()
	}
	if err := write("open"); err != nil {
		t.Errorf("open: %v", err)
	}
	if err := write("closed"); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("closed: %v", err)
	}
	allow(t, admin, kadm.NewACLs().Topics("closed").Operations(kadm.OpWrite).Allow("ANONYMOUS"))
	if err := write("closed"); err != nil {
		t.Errorf("closed, but for anonymous: %v", err)
	}
}

// TestScramByRequests: credentials that requests set let clients in, and nothing else does; they are gone when they are removed.
func TestScramByRequests(t *testing.T) {
	addr, admin := guardedServer(t, fileRules(nil))
	ctx := testContext(t)
	set := func(user, password string, m kadm.ScramMechanism, iterations int32) error {
		got, err := admin.AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{{User: user, Mechanism: m, Iterations: iterations, Password: password}})
		if err != nil {
			return err
		}
		return got[user].Err
	}
	for _, m := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} {
		if err := set("alice", "wonder", m, 8192); err != nil {
			t.Fatal(err)
		}
	}
	ping := func(user, password string, m func(scram.Auth) kgo.Opt) error {
		return newClient(t, addr, m(scram.Auth{User: user, Pass: password})).Ping(ctx)
	}
	sha256 := func(a scram.Auth) kgo.Opt { return kgo.SASL(a.AsSha256Mechanism()) }
	sha512 := func(a scram.Auth) kgo.Opt { return kgo.SASL(a.AsSha512Mechanism()) }
	for name, m := range map[string]func(scram.Auth) kgo.Opt{"256": sha256, "512": sha512} {
		if err := ping("alice", "wonder", m); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, wrong := range [][2]string{{"alice", "Wonder"}, {"bob", "wonder"}} {
			if err := ping(wrong[0], wrong[1], m); !errors.Is(err, kerr.SaslAuthenticationFailed) {
				t.Errorf("%s: %v: %v", name, wrong, err)
			}
		}
	}
	got, err := admin.DescribeUserSCRAMs(ctx)
	if err != nil || len(got) != 1 || len(got["alice"].CredInfos) != 2 || got["alice"].CredInfos[0].Iterations != 8192 {
		t.Errorf("described %+v, %v", got, err)
	}
	if err := set("plant", "x", kadm.ScramSha256, 4096); !errors.Is(err, kerr.PolicyViolation) {
		t.Errorf("a user of the file: %v", err)
	}
	del, err := admin.AlterUserSCRAMs(ctx, []kadm.DeleteSCRAM{{User: "alice", Mechanism: kadm.ScramSha256}, {User: "bob", Mechanism: kadm.ScramSha256}}, nil)
	if err != nil || del["alice"].Err != nil || !errors.Is(del["bob"].Err, kerr.ResourceNotFound) {
		t.Errorf("removed %+v, %v", del, err)
	}
	if err := ping("alice", "wonder", sha256); !errors.Is(err, kerr.SaslAuthenticationFailed) {
		t.Errorf("with a credential that is removed: %v", err)
	}
	if err := ping("alice", "wonder", sha512); err != nil {
		t.Errorf("with the one that is left: %v", err)
	}
}

// What the protocol lets a client ask for, and nobody should get, with the codes of Kafka.
func TestScramThatIsRefused(t *testing.T) {
	addr, _ := guardedServer(t, nil)
	c := dialAs(t, addr, "admin")
	for name, u := range map[string]struct {
		kmsg.AlterUserSCRAMCredentialsRequestUpsertion
		want int16
	}{
		"good":            {kmsg.AlterUserSCRAMCredentialsRequestUpsertion{Mechanism: 1, Iterations: 4096}, errNone},
		"few iterations":  {kmsg.AlterUserSCRAMCredentialsRequestUpsertion{Mechanism: 1, Iterations: 4095}, errUnacceptableCredential},
		"many iterations": {kmsg.AlterUserSCRAMCredentialsRequestUpsertion{Mechanism: 1, Iterations: 16_385}, errUnacceptableCredential},
		"other mechanism": {kmsg.AlterUserSCRAMCredentialsRequestUpsertion{Mechanism: 3, Iterations: 4096}, errUnsupportedSaslMechanism},
		"other length":    {kmsg.AlterUserSCRAMCredentialsRequestUpsertion{Mechanism: 2, Iterations: 4096}, errUnacceptableCredential},
	} {
		u.Name, u.Salt, u.SaltedPassword = name, []byte("salt"), make([]byte, 32)
		req := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
		req.Upsertions = []kmsg.AlterUserSCRAMCredentialsRequestUpsertion{u.AlterUserSCRAMCredentialsRequestUpsertion}
		got := roundTrip[*kmsg.AlterUserSCRAMCredentialsResponse](c, req)
		if len(got.Results) != 1 || got.Results[0].User != name || got.Results[0].ErrorCode != u.want {
			t.Errorf("%s: %+v", name, got.Results)
		}
		req.Upsertions = append(req.Upsertions, req.Upsertions[0])
		if got := roundTrip[*kmsg.AlterUserSCRAMCredentialsResponse](c, req); len(got.Results) != 1 || got.Results[0].ErrorCode != errDuplicateResource {
			t.Errorf("%s, twice: %+v", name, got.Results)
		}
	}
}

// S4: the salt of a name that is nobody's is the cluster's, not the node's: it is the same after a restart, in which a node forgets all that is its own.
func TestSaltOfNobodyIsTheClusters(t *testing.T) {
	dir := t.TempDir()
	ask := func(set bool) (salt string) {
		b := openBrokerIn(t, dir)
		defer func() {
			if err := b.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}()
		s, stop := runServer(t, Config{Broker: b, Auth: users{b}})
		defer stop()
		addr := s.Addrs()[0].String()
		if set {
			admin := kadm.NewClient(as(t, addr, "admin"))
			got, err := admin.AlterUserSCRAMs(testContext(t), nil, []kadm.UpsertSCRAM{{User: "u", Mechanism: kadm.ScramSha256, Iterations: 4096, Password: "p"}})
			if err != nil || !got.Ok() {
				t.Fatal(got, err)
			}
			admin.Close()
		}
		c := dialRaw(t, addr)
		defer c.Close()
		roundTrip[*kmsg.SASLHandshakeResponse](c, handshake(1, "SCRAM-SHA-256"))
		got := roundTrip[*kmsg.SASLAuthenticateResponse](c, authenticate(2, "n,,n=ghost,r=x"))
		return strings.SplitN(string(got.SASLAuthBytes), ",", 2)[1]
	}
	if first, again := ask(true), ask(false); first != again || !strings.HasPrefix(first, "s=") {
		t.Errorf("%s, and after a restart %s", first, again)
	}
}
