package kafka

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// S4: who is not there is answered as the users are who are there now.
func TestScramOfNobodyLooksLikeAUsers(t *testing.T) {
	addr, admin := guardedServer(t, nil)
	ask := func(user string) string {
		c := dialRaw(t, addr)
		if got := roundTrip[*kmsg.SASLHandshakeResponse](c, handshake(1, "SCRAM-SHA-256")); got.ErrorCode != errNone {
			t.Fatalf("handshake: error %d", got.ErrorCode)
		}
		_, what, _ := strings.Cut(string(roundTrip[*kmsg.SASLAuthenticateResponse](c, authenticate(2, "n,,n="+user+",r=n")).SASLAuthBytes), ",s=")
		return what
	}
	seen := map[string]bool{}
	for _, want := range []string{",i=8192", ",i=5000"} {
		u := kadm.UpsertSCRAM{User: "alice", Mechanism: kadm.ScramSha256, Password: "x", Iterations: 8192}
		if want == ",i=5000" {
			u.Iterations = 5000
		}
		if got, err := admin.AlterUserSCRAMs(testContext(t), nil, []kadm.UpsertSCRAM{u}); err != nil || got.Error() != nil {
			t.Fatal(err, got.Error())
		}
		alice, nobody := ask("alice"), ask("nobody")
		if !strings.HasSuffix(alice, want) || !strings.HasSuffix(nobody, want) || len(alice) != len(nobody) || alice == nobody {
			t.Errorf("alice is told %s, nobody %s, want %s", alice, nobody, want)
		}
		seen[strings.TrimSuffix(nobody, want)] = true
	}
	if len(seen) != 1 {
		t.Errorf("the salt of nobody changes with alice's password: %v", seen)
	}
}
