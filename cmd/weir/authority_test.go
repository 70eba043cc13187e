package main

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"

	"github.com/weir-io/weir/cluster/access"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt"
)

// rights is an authority over routes plants/+p/x → x and # → telemetry, topics x, telemetry and orders, and what is given.
func rights(t testing.TB, file string, rules []access.Rule, creds ...access.Credential) *authority {
	t.Helper()
	im := meta.NewImage()
	apply := func(cmd meta.Command) {
		next, _, err := im.Apply(cmd)
		if err != nil {
			t.Fatal(err)
		}
		im = next
	}
	apply(&meta.RegisterBroker{ClusterID: "c", UUID: meta.UUID{1}, Nonce: meta.UUID{2}})
	for i, name := range []string{"orders", "telemetry", "x"} {
		apply(&meta.CreateTopic{Name: name, ID: log.TopicID{byte(i + 1)}, Assignment: [][]int32{{1}}})
	}
	apply(&meta.AlterRules{Add: rules})
	apply(&meta.AlterCredentials{Set: creds})
	router, err := mqtt.NewRouter([]mqtt.Route{{Match: "plants/+p/x", Topic: "x", Key: "{p}"}, {Match: "#", Topic: "telemetry"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var auth *mqtt.StaticAuth
	if file != "" {
		if auth, err = mqtt.ParseAuth([]byte(file)); err != nil {
			t.Fatal(err)
		}
	}
	return newAuthority(auth, "users.yaml", func() *meta.Image { return im }, func() *mqtt.Router { return router })
}

func credentialOf(t testing.TB, user, password string) access.Credential {
	t.Helper()
	salted, err := pbkdf2.Key(sha256.New, password, []byte("salt"), access.MinIterations, sha256.Size)
	if err != nil {
		t.Fatal(err)
	}
	c, err := access.NewCredential(user, access.SHA256, []byte("salt"), salted, access.MinIterations)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func onTopic(name, user string, op access.Operation, p access.Permission) access.Rule {
	return access.Rule{Resource: access.Topic, Pattern: access.Literal, Name: name, Principal: "User:" + user, Host: "*", Operation: op, Permission: p}
}

const (
	// the hash is of "secret", at bcrypt's least cost
	secretFile = `
users:
  - name: plant
    password: "$2a$04$Brar7OGI3mIL6V2rqZ.x3uKCxjseVUDX5AwtK246nQCIYgDavQQLO"
    publish: [plants/#]
    subscribe: [plants/#]
  - name: root
    password: "$2a$04$Brar7OGI3mIL6V2rqZ.x3uKCxjseVUDX5AwtK246nQCIYgDavQQLO"
    admin: true
everyone:
  publish: ["own/%c"]
anonymous: {}
`
)

func TestAllowByRules(t *testing.T) {
	read, write, allow, deny := access.Read, access.Write, access.Allow, access.Deny
	bob := credentialOf(t, "bob", "secret")
	as := func(user string) mqtt.ClientInfo {
		return mqtt.ClientInfo{ClientID: "c", UserName: user, HasPassword: user != "", Password: []byte("secret"), RemoteAddr: "10.0.0.1:99"}
	}
	fromElsewhere := onTopic("telemetry", "*", write, deny)
	fromElsewhere.Host = "10.0.0.2"
	fromHere := onTopic("telemetry", "*", write, deny)
	fromHere.Host = "10.0.0.1"
	prefixed := onTopic("tele", "bob", write, allow)
	prefixed.Pattern = access.Prefixed
	for name, c := range map[string]struct {
		file   string
		rules  []access.Rule
		who    string
		action mqtt.Action
		topic  string
		want   bool
	}{
		// No file: what no rule is about is open, also to who has proved nothing.
		"open":                                {"", nil, "", mqtt.Publish, "a", true},
		"open, rules about something else":    {"", []access.Rule{onTopic("orders", "bob", write, allow)}, "", mqtt.Publish, "a", true},
		"closed to others":                    {"", []access.Rule{onTopic("telemetry", "bob", write, allow)}, "", mqtt.Publish, "a", false},
		"allowed":                             {"", []access.Rule{onTopic("telemetry", "bob", write, allow)}, "bob", mqtt.Publish, "a", true},
		"a name alone is no proof":            {"", []access.Rule{onTopic("telemetry", "eve", write, allow)}, "eve", mqtt.Publish, "a", false},
		"anonymous":                           {"", []access.Rule{onTopic("telemetry", "ANONYMOUS", write, allow)}, "eve", mqtt.Publish, "a", true},
		"denied":                              {"", []access.Rule{onTopic("telemetry", "*", write, deny)}, "bob", mqtt.Publish, "a", false},
		"denied where another route leads":    {"", []access.Rule{onTopic("telemetry", "*", write, deny)}, "bob", mqtt.Publish, "plants/1/x", true},
		"denied to hosts":                     {"", []access.Rule{fromHere}, "bob", mqtt.Publish, "a", false},
		"denied to other hosts":               {"", []access.Rule{fromElsewhere, prefixed}, "bob", mqtt.Publish, "a", true},
		"by prefix":                           {"", []access.Rule{prefixed}, "bob", mqtt.Publish, "a", true},
		"reading denied, writing not":         {"", []access.Rule{onTopic("telemetry", "*", read, deny), onTopic("telemetry", "*", write, allow)}, "", mqtt.Publish, "a", true},
		"a subscription to what is denied":    {"", []access.Rule{onTopic("telemetry", "*", read, deny)}, "bob", mqtt.Subscribe, "a/#", false},
		"one that reaches it":                 {"", []access.Rule{onTopic("x", "*", read, deny)}, "bob", mqtt.Subscribe, "plants/#", false},
		"one that does not":                   {"", []access.Rule{onTopic("x", "*", read, deny)}, "bob", mqtt.Subscribe, "plants/+/y", true},
		"everything, where a topic is closed": {"", []access.Rule{onTopic("orders", "bob", read, allow)}, "", mqtt.Subscribe, "#", false},
		"a log topic's own":                   {"", []access.Rule{onTopic("orders", "bob", read, allow)}, "", mqtt.Subscribe, "orders/+", false},
		"a shared subscription":               {"", []access.Rule{onTopic("orders", "bob", read, allow)}, "", mqtt.Subscribe, "$share/g/orders/+", false},
		"a topic that is still to come":       {"", []access.Rule{onTopic("later", "bob", read, deny)}, "bob", mqtt.Subscribe, "+/k", false},
		// A rule on MQTT topics.
		"mqtt: denied":                    {"", []access.Rule{onTopic("mqtt:plants/8/#", "*", write, deny)}, "bob", mqtt.Publish, "plants/8/a", false},
		"mqtt: others are not":            {"", []access.Rule{onTopic("mqtt:plants/8/#", "*", write, deny)}, "bob", mqtt.Publish, "plants/7/a", true},
		"mqtt: a part of it denied":       {"", []access.Rule{onTopic("mqtt:plants/8/#", "*", read, deny)}, "bob", mqtt.Subscribe, "plants/+/a", false},
		"mqtt: closed to others":          {"", []access.Rule{onTopic("mqtt:plants/8/#", "bob", write, allow)}, "", mqtt.Publish, "plants/8/a", false},
		"mqtt: allowed":                   {"", []access.Rule{onTopic("mqtt:plants/8/#", "bob", write, allow)}, "bob", mqtt.Publish, "plants/8/a", true},
		"mqtt: by client id":              {secretFile, []access.Rule{onTopic("mqtt:ids/%c", "bob", write, allow)}, "bob", mqtt.Publish, "ids/c", true},
		"mqtt: by another's":              {secretFile, []access.Rule{onTopic("mqtt:ids/%c", "bob", write, allow)}, "bob", mqtt.Publish, "ids/d", false},
		"mqtt: allowed, the topic denied": {"", []access.Rule{onTopic("mqtt:plants/8/#", "bob", write, allow), onTopic("telemetry", "*", access.All, deny)}, "bob", mqtt.Publish, "plants/8/a", false},
		// With a file what nothing allows is refused, and what the file allows a rule can deny.
		"file: allowed by it":                {secretFile, nil, "plant", mqtt.Publish, "plants/7/a", true},
		"file: not allowed":                  {secretFile, nil, "plant", mqtt.Publish, "a", false},
		"file: allowed by a rule":            {secretFile, []access.Rule{onTopic("telemetry", "plant", write, allow)}, "plant", mqtt.Publish, "a", true},
		"file: denied by a rule":             {secretFile, []access.Rule{onTopic("telemetry", "plant", write, deny)}, "plant", mqtt.Publish, "plants/7/a", false},
		"file: a rule for others":            {secretFile, []access.Rule{onTopic("telemetry", "bob", write, allow)}, "plant", mqtt.Publish, "plants/7/a", true},
		"file: a user beside it":             {secretFile, nil, "bob", mqtt.Publish, "plants/7/a", false},
		"file: a user beside it, everyone's": {secretFile, nil, "bob", mqtt.Publish, "own/c", true},
		"file: a user beside it, a rule's":   {secretFile, []access.Rule{onTopic("telemetry", "bob", write, allow)}, "bob", mqtt.Publish, "a", true},
		"file: a subscription by a rule":     {secretFile, []access.Rule{onTopic("telemetry", "bob", read, allow)}, "bob", mqtt.Subscribe, "a/#", true},
		"file: one to more than that":        {secretFile, []access.Rule{onTopic("telemetry", "bob", read, allow)}, "bob", mqtt.Subscribe, "#", false},
		"file: one to all":                   {secretFile, []access.Rule{onTopic("*", "bob", read, allow)}, "bob", mqtt.Subscribe, "#", true},
		"file: a subscription to nothing":    {secretFile, []access.Rule{onTopic("x", "plant", write, allow)}, "plant", mqtt.Subscribe, "$SYS/#", false},
		"file: anonymous":                    {secretFile, []access.Rule{onTopic("telemetry", "ANONYMOUS", write, allow)}, "", mqtt.Publish, "a", true},
		"file: admin":                        {secretFile, []access.Rule{onTopic("*", "*", access.All, deny)}, "root", mqtt.Publish, "a", true},
	} {
		a := rights(t, c.file, c.rules, bob)
		id, err := a.Authenticate(as(c.who))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := a.Allow(id, c.action, []byte(c.topic)); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestAuthenticateByFileAndCredentials(t *testing.T) {
	bob, plant := credentialOf(t, "bob", "wonder"), credentialOf(t, "plant", "wonder")
	for name, c := range map[string]struct {
		file           string
		user, password string
		principal      string
		err            error
	}{
		"credential":                       {"", "bob", "wonder", "User:bob", nil},
		"wrong":                            {"", "bob", "secret", "", mqtt.ErrBadCredentials},
		"without a password":               {"", "bob", "", "", mqtt.ErrBadCredentials},
		"nobody's name":                    {"", "eve", "x", "User:ANONYMOUS", nil},
		"no name":                          {"", "", "", "User:ANONYMOUS", nil},
		"beside a file":                    {secretFile, "bob", "wonder", "User:bob", nil},
		"beside a file, wrong":             {secretFile, "bob", "secret", "", mqtt.ErrBadCredentials},
		"nobody's name, with a file":       {secretFile, "eve", "x", "", mqtt.ErrBadCredentials},
		"of the file":                      {secretFile, "plant", "secret", "User:plant", nil},
		"of the file, with the credential": {secretFile, "plant", "wonder", "", mqtt.ErrBadCredentials},
		"no name, with a file":             {secretFile, "", "", "User:ANONYMOUS", nil},
	} {
		a := rights(t, c.file, nil, bob, plant)
		for range 2 { // and again, from memory
			id, err := a.Authenticate(mqtt.ClientInfo{ClientID: "c", UserName: c.user, HasPassword: c.password != "", Password: []byte(c.password), RemoteAddr: "[::ffff:10.0.0.1]:5"})
			if !errors.Is(err, c.err) || id.Principal != c.principal || err == nil && (id.Name != c.user || id.Host != "10.0.0.1") {
				t.Errorf("%s: %+v, %v", name, id, err)
			}
			moved := mqtt.Identity{ClientID: id.ClientID, Name: id.Name, Principal: id.Principal, Host: id.Host}
			if again, adopt := a.Adopt(moved); err == nil && (adopt != nil || again != id) {
				t.Errorf("%s: at another node %+v, %v", name, again, adopt)
			}
		}
		if _, ok := a.Credential("plant", access.SHA256); ok != (c.file == "") {
			t.Errorf("%s: a user of the file has a credential: %v", name, ok)
		}
	}
}

// Whom another node has let in is not believed more than one who comes here.
func TestAdoptWantsWhatThisNodeKnows(t *testing.T) {
	bob := credentialOf(t, "bob", "wonder")
	for name, c := range map[string]struct {
		file            string
		user, principal string
	}{
		"no password asked for there":     {"", "bob", "User:ANONYMOUS"},
		"a password that nobody has here": {"", "eve", "User:eve"},
		"another's name":                  {"", "bob", "User:eve"},
		"not in the file":                 {secretFile, "eve", "User:eve"},
		"no proof for one of the file":    {secretFile, "plant", "User:ANONYMOUS"},
		"nobody of that name":             {secretFile, "", "User:"},
	} {
		a := rights(t, c.file, nil, bob)
		if id, err := a.Adopt(mqtt.Identity{ClientID: "c", Name: c.user, Principal: c.principal}); err == nil {
			t.Errorf("%s: %+v", name, id)
		}
	}
}

// kafka.sasl needs somebody who can make the first user and rule.
func TestSASLNeedsAnAdmin(t *testing.T) {
	for text, good := range map[string]bool{secretFile: true, "users: []\n": false} {
		file, err := mqtt.ParseAuth([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		c := Defaults()
		if err := c.checkSASL(file); err != nil {
			t.Errorf("without kafka.sasl: %v", err)
		}
		c.Kafka.SASL = true
		if err := c.checkSASL(file); (err == nil) != good {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestRulesOfTheFile(t *testing.T) {
	a := rights(t, secretFile, nil)
	rules := a.Rules()
	want := []access.Rule{
		onTopic("mqtt:own/%c", "*", access.Write, access.Allow),
		onTopic("mqtt:plants/#", "plant", access.Write, access.Allow),
		onTopic("mqtt:plants/#", "plant", access.Read, access.Allow),
	}
	if !slices.Equal(rules, want) {
		t.Errorf("%v", rules)
	}
	for _, r := range rules {
		if err := checkRule(&r); err != nil {
			t.Errorf("what the file says could not be said by a request: %v", err)
		}
	}
	prefixed := onTopic("mqtt:a/", "u", access.Read, access.Allow)
	prefixed.Pattern = access.Prefixed
	for name, r := range map[string]access.Rule{
		"prefixed":       prefixed,
		"no filter":      onTopic("mqtt:a/#/b", "u", access.Read, access.Allow),
		"no operation":   onTopic("mqtt:a", "u", access.Delete, access.Allow),
		"denial of a %c": onTopic("mqtt:a/%c", "u", access.Read, access.Deny),
	} {
		if err := checkRule(&r); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// S3: a publish under rules costs no memory.
func TestAllowAllocatesNothing(t *testing.T) {
	a := rights(t, secretFile, []access.Rule{onTopic("mqtt:plants/8/#", "*", access.Write, access.Deny), onTopic("x", "plant", access.Write, access.Allow)})
	id, err := a.Authenticate(mqtt.ClientInfo{ClientID: "c", UserName: "plant", HasPassword: true, Password: []byte("secret"), RemoteAddr: "10.0.0.1:5"})
	if err != nil {
		t.Fatal(err)
	}
	topic := []byte("plants/7/x")
	if n := testing.AllocsPerRun(100, func() { a.Allow(id, mqtt.Publish, topic) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
