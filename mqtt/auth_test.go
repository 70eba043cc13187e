package mqtt

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/bcrypt"
	"pgregory.net/rapid"
)

// secretHash is a hash of "secret", made once and cheaply.
var secretHash = sync.OnceValue(func() string {
	h, err := hashPassword([]byte("secret"), bcrypt.MinCost, 1)
	if err != nil {
		panic(err)
	}
	return h
})

func mustAuth(t testing.TB, text string) *StaticAuth {
	t.Helper()
	a, err := ParseAuth([]byte(strings.ReplaceAll(text, "HASH", secretHash())))
	if err != nil {
		t.Fatal(err)
	}
	a.hasher.dummy.bcrypt = bytes.Replace(a.hasher.dummy.bcrypt, []byte("$10$"), []byte("$04$"), 1)
	return a
}

const exampleAuth = `
users:
  - name: plant-7
    password: "HASH"
    publish: [plants/7/#]
    subscribe: [plants/7/#, "commands/%u/+", plants/+/heat]
everyone:
  publish: ["devices/%c/#"]
  subscribe: ["devices/dev-%c/commands", "100%%/x"]
anonymous:
  publish: [public/#]
`

func TestAuthenticate(t *testing.T) {
	a := mustAuth(t, exampleAuth)
	for _, tt := range []struct {
		name string
		in   ClientInfo
		user string
		err  error
	}{
		{"right password", ClientInfo{ClientID: "c", UserName: "plant-7", HasPassword: true, Password: []byte("secret")}, "plant-7", nil},
		{"again, from memory", ClientInfo{ClientID: "c", UserName: "plant-7", HasPassword: true, Password: []byte("secret")}, "plant-7", nil},
		{"wrong password", ClientInfo{ClientID: "c", UserName: "plant-7", HasPassword: true, Password: []byte("secreT")}, "", ErrBadCredentials},
		{"no password", ClientInfo{ClientID: "c", UserName: "plant-7"}, "", ErrBadCredentials},
		{"unknown user", ClientInfo{ClientID: "c", UserName: "x", HasPassword: true, Password: []byte("secret")}, "", ErrBadCredentials},
		{"a password without user name is not anonymous", ClientInfo{ClientID: "c", HasPassword: true}, "", ErrBadCredentials},
		{"anonymous", ClientInfo{ClientID: "c"}, "", nil},
	} {
		id, err := a.Authenticate(tt.in)
		if !errors.Is(err, tt.err) || err == nil && (id.Name != tt.user || id.ClientID != tt.in.ClientID) {
			t.Errorf("%s: %+v, %v", tt.name, id, err)
		}
	}
	if _, err := mustAuth(t, "users: []").Authenticate(ClientInfo{ClientID: "c"}); !errors.Is(err, ErrNotAuthorized) {
		t.Errorf("anonymous without a section: %v", err)
	}
}

func TestAllow(t *testing.T) {
	a := mustAuth(t, exampleAuth)
	user, err := a.Authenticate(ClientInfo{ClientID: "c1", UserName: "plant-7", HasPassword: true, Password: []byte("secret")})
	if err != nil {
		t.Fatal(err)
	}
	anon, err := a.Authenticate(ClientInfo{ClientID: "c2"})
	if err != nil {
		t.Fatal(err)
	}
	slash, sharp := anon, anon
	slash.ClientID, sharp.ClientID = "a/b", "#"
	for _, tt := range []struct {
		id     Identity
		action Action
		topic  string
		want   bool
	}{
		{user, Publish, "plants/7", true}, {user, Publish, "plants/7/x/y", true}, {user, Publish, "plants/70", false},
		{user, Publish, "plants/8/x", false}, {user, Publish, "public/x", false}, {user, Publish, "", false},
		{user, Publish, "devices/c1/x", true}, {user, Publish, "devices/c2/x", false}, {user, Publish, "devices/%c/x", false},
		{user, Subscribe, "plants/7/#", true}, {user, Subscribe, "plants/7/+/x", true}, {user, Subscribe, "plants/7", true},
		{user, Subscribe, "plants/#", false}, {user, Subscribe, "#", false}, {user, Subscribe, "plants/+/#", false},
		{user, Subscribe, "plants/+/heat", true}, {user, Subscribe, "plants/9/heat", true}, {user, Subscribe, "plants/+/+", false},
		{user, Subscribe, "commands/plant-7/x", true}, {user, Subscribe, "commands/plant-7/+", true},
		{user, Subscribe, "commands/plant-7/#", false}, {user, Subscribe, "commands/+/x", false}, {user, Subscribe, "commands/other/x", false},
		{user, Subscribe, "$share/g/plants/7/x", true}, {user, Subscribe, "$share/g/plants/8/x", false}, {user, Subscribe, "$share/g", false},
		{user, Subscribe, "devices/dev-c1/commands", true}, {user, Subscribe, "devices/dev-c2/commands", false}, {user, Subscribe, "100%/x", true},
		{anon, Publish, "public", true}, {anon, Publish, "public/x", true}, {anon, Publish, "plants/7", false}, {anon, Publish, "devices/c2/x", true},
		{anon, Subscribe, "public/#", false}, {anon, Publish, "$SYS/x", false},
		{slash, Publish, "devices/a/b/x", false}, {sharp, Publish, "devices/#/x", false},
		{Identity{ClientID: "c", Name: "plant-7"}, Publish, "plants/7/x", false},
	} {
		if got := a.Allow(tt.id, tt.action, []byte(tt.topic)); got != tt.want {
			t.Errorf("%q/%q may %v %q: %v, want %v", tt.id.Name, tt.id.ClientID, tt.action, tt.topic, got, tt.want)
		}
	}
	dollar := mustAuth(t, "anonymous: {publish: ['#'], subscribe: ['+/x', '#']}")
	id, err := dollar.Authenticate(ClientInfo{ClientID: "c"})
	if err != nil {
		t.Fatal(err)
	}
	if dollar.Allow(id, Publish, []byte("$x")) || dollar.Allow(id, Subscribe, []byte("$SYS/#")) || !dollar.Allow(id, Subscribe, []byte("#")) {
		t.Error("'#' is about topics without '$' only")
	}
}

func TestAuthFileErrorsNameEntryAndField(t *testing.T) {
	for text, want := range map[string]string{
		"users: [{password: 'HASH'}]":                                     "users[0].name: missing",
		"users: [{name: a}]":                                              "users[0].password: missing",
		"users: [{name: a, password: secret}]":                            "users[0].password: not a hash",
		"users: [{name: a, password: '$2a$31$x'}]":                        "users[0].password: bcrypt",
		"users: [{name: a, password: '$7$0$AAAA$AAAA'}]":                  "users[0].password: PBKDF2",
		"users: [{name: a, password: '$7$5$AAAA'}]":                       "users[0].password: PBKDF2",
		"users: [{name: a, password: '$7$5$AAAA$AAAA'}]":                  "users[0].password: PBKDF2",
		"users: [{name: a, password: 'HASH'}, {name: a, password: HASH}]": "users[1].name: \"a\" is listed twice",
		"anonymous: {publish: [a, b/#/c]}":                                "anonymous.publish[1]: ",
		"everyone: {subscribe: ['%x']}":                                   "everyone.subscribe[0]: ",
		"everyone: {subscribe: ['a%']}":                                   "everyone.subscribe[0]: ",
		"everyone: {subscribe: ['$share/g/a']}":                           "everyone.subscribe[0]: ",
		"everyone: {subscribes: [a]}":                                     "subscribes",
	} {
		_, err := ParseAuth([]byte(strings.ReplaceAll(text, "HASH", secretHash())))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", text, err, want)
		}
	}
	if a, err := ParseAuth([]byte(" \n")); err != nil || a.Allow(Identity{}, Publish, []byte("x")) {
		t.Errorf("an empty file: %v", err)
	}
}

func TestPasswordHashes(t *testing.T) {
	long := strings.Repeat("long ", 30)
	for _, password := range []string{"s", "secret", strings.Repeat("x", 72), long} {
		text, err := hashPassword([]byte(password), bcrypt.MinCost, 1000)
		if err != nil {
			t.Fatal(err)
		}
		h, err := parseHash(text)
		if err != nil {
			t.Fatal(err)
		}
		if !h.matches([]byte(password)) || h.matches([]byte(password+"x")) || h.matches(nil) {
			t.Errorf("hash %s of %q", text, password)
		}
	}
	if _, err := HashPassword(nil); err == nil {
		t.Error("the empty password was hashed")
	}
	// RFC 6070's first case with SHA-512, in mosquitto's form; Python's hashlib gives the same.
	h, err := parseHash("$7$1$c2FsdA==$hn9wzxreAs/zdSWZo6U9xK80x6ZpgVrl1RNVThyM8lLALUcKKFoFAbrZmb/pQ8CPBQI119aLHaVeY/c7YKV/zg==")
	if err != nil || !h.matches([]byte("password")) {
		t.Errorf("PBKDF2 test vector: %v", err)
	}
}

// What users get is slow to check on purpose, and a name that nobody has costs the same.
func TestPasswordsAreSlowToGuess(t *testing.T) {
	if raceEnabled {
		t.Skip("twenty seconds under the race detector, which has nothing to see here")
	}
	text, err := HashPassword([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	c := NewPasswords()
	for _, hash := range [][]byte{[]byte(text), c.dummy.bcrypt} {
		if cost, err := bcrypt.Cost(hash); cost != bcrypt.DefaultCost || err != nil {
			t.Errorf("%s: cost %d, %v", hash, cost, err)
		}
	}
	if c.dummy.matches([]byte("")) {
		t.Error("the dummy hash matches")
	}
	long := strings.Repeat("long ", 30)
	if text, err = HashPassword([]byte(long)); err != nil || !strings.HasPrefix(text, "$7$210000$") {
		t.Errorf("%s, %v", text, err)
	}
}

// A filter covers another exactly when no topic matches the wanted one and not the allowed one. Three
// levels over a small alphabet, $ aside, are enough to find any difference.
func TestCoversIsContainment(t *testing.T) {
	var topics []string
	for _, a := range []string{"a", "b", ""} {
		topics = append(topics, a)
		for _, b := range []string{"a", "z", ""} {
			topics = append(topics, a+"/"+b)
			for _, c := range []string{"a", "z"} {
				topics = append(topics, a+"/"+b+"/"+c, a+"/"+b+"/"+c+"/q")
			}
		}
	}
	draw := func(t *rapid.T, name string) string {
		levels := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "+", "+"}), 1, 3).Draw(t, name)
		if rapid.Bool().Draw(t, name+" rest") {
			levels = append(levels[:len(levels)-1], "#")
		}
		return strings.Join(levels, "/")
	}
	rapid.Check(t, func(t *rapid.T) {
		allowed, want := draw(t, "allowed"), draw(t, "want")
		f, err := parseACLFilter(allowed)
		if err != nil {
			t.Fatal(err)
		}
		contained := true
		for _, topic := range topics {
			if topic != "" && naiveMatch(want, topic) && !naiveMatch(allowed, topic) {
				contained = false
			}
		}
		// "a/#" holds "a" and all below: no finite list of filters equals it, so level by level is exact.
		if got := f.covers(&Identity{}, Subscribe, []byte(want)); got != contained {
			t.Fatalf("%q covers %q: %v, topics say %v", allowed, want, got, contained)
		}
	})
}

func TestAllowAllocatesNothing(t *testing.T) {
	a := mustAuth(t, exampleAuth)
	id, err := a.Authenticate(ClientInfo{ClientID: "c2"})
	if err != nil {
		t.Fatal(err)
	}
	topic := []byte("devices/c2/telemetry")
	if n := testing.AllocsPerRun(100, func() {
		if !a.Allow(id, Publish, topic) {
			t.Fatal("denied")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzAuthFilter(f *testing.F) {
	f.Add("devices/%c/#", "devices/c/x", "c")
	f.Fuzz(func(t *testing.T, filter, topic, client string) {
		parsed, err := parseACLFilter(filter)
		if err != nil {
			return
		}
		set := ruleSet{publish: []aclFilter{parsed}, subscribe: []aclFilter{parsed}}
		id := Identity{ClientID: client}
		allowed := set.allow(&id, Publish, []byte(topic))
		set.allow(&id, Subscribe, []byte(topic))
		if plain := !strings.Contains(filter, "%") && topic != ""; plain && allowed != naiveMatch(filter, topic) {
			t.Fatalf("%q allows %q: %v", filter, topic, allowed)
		}
	})
}
