package access

import (
	"bytes"
	"crypto/pbkdf2"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func salted(t testing.TB, m Mechanism, password string, salt []byte, iterations int) []byte {
	t.Helper()
	key, err := pbkdf2.Key(m.hash(), password, salt, iterations, m.size())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func credential(t testing.TB, m Mechanism, user, password string) Credential {
	t.Helper()
	salt, err := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCredential(user, m, salt, salted(t, m, password, salt, MinIterations), MinIterations)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func exchange(c Credential) *Exchange {
	return &Exchange{Mechanism: c.Mechanism, Decoys: NewDecoys([]byte("decoy"), []Credential{c}), Lookup: func(user string, m Mechanism) (Credential, bool) {
		return c, user == c.User && m == c.Mechanism
	}}
}

// The example of RFC 7677.
func TestExchangeOfTheStandard(t *testing.T) {
	x := exchange(credential(t, SHA256, "user", "pencil"))
	first, err := x.First([]byte("n,,n=user,r=rOprNGfwEbeRWgbNEkqO"), "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
	if want := "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"; err != nil || string(first) != want {
		t.Fatalf("first answer %q, %v", first, err)
	}
	last := "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
	answer, user, err := x.Final([]byte(last))
	if want := "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="; err != nil || string(answer) != want || user != "user" {
		t.Fatalf("last answer %q for %q, %v", answer, user, err)
	}
	if _, _, err := x.Final([]byte(last)); !errors.Is(err, ErrAuthentication) {
		t.Errorf("the same proof again: %v", err)
	}
}

// prove is a client's last message.
func prove(t *testing.T, m Mechanism, password, bare, first string) string {
	return proveWith(t, m, password, bare, first, strings.TrimPrefix(strings.SplitN(first, ",", 2)[0], "r="))
}

func proveWith(t *testing.T, m Mechanism, password, bare, first, nonce string) string {
	var iterations int
	parts := strings.SplitN(first, ",", 3)
	salt := strings.TrimPrefix(parts[1], "s=")
	fmt.Sscanf(parts[2], "i=%d", &iterations)
	raw, err := base64.StdEncoding.DecodeString(salt)
	if err != nil {
		t.Fatal(err)
	}
	key := m.mac(salted(t, m, password, raw, iterations), []byte("Client Key"))
	without := "c=biws,r=" + nonce
	signature := m.mac(m.sum(key), []byte(bare+","+first+","+without))
	for i := range key {
		key[i] ^= signature[i]
	}
	return without + ",p=" + base64.StdEncoding.EncodeToString(key)
}

func TestExchangeFailures(t *testing.T) {
	for _, m := range Mechanisms {
		c := credential(t, m, "a,b=c", "secret")
		run := func(first, bare, password string, spoil func(string) string) error {
			x := exchange(c)
			answer, err := x.First([]byte(first), "server")
			if err != nil {
				return err
			}
			_, _, err = x.Final([]byte(spoil(prove(t, m, password, bare, string(answer)))))
			return err
		}
		same := func(s string) string { return s }
		bare := "n=a=2Cb=3Dc,r=n"
		if err := run("n,,"+bare, bare, "secret", same); err != nil {
			t.Errorf("%s: the right password: %v", m, err)
		}
		twice := func(first string) string { // what librdkafka 2.0 answers, signed as it stands
			nonce := strings.TrimPrefix(strings.SplitN(first, ",", 2)[0], "r=")
			return proveWith(t, m, "secret", bare, first, "n"+nonce)
		}
		x := exchange(c)
		if first, err := x.First([]byte("n,,"+bare), "server"); err != nil {
			t.Fatal(err)
		} else if _, user, err := x.Final([]byte(twice(string(first)))); err != nil || user != c.User {
			t.Errorf("%s: with its part of the nonce twice: %v", m, err)
		}
		for name, err := range map[string]error{
			"wrong password":     run("n,,"+bare, bare, "Secret", same),
			"unknown user":       run("n,,n=who,r=n", "n=who,r=n", "secret", same),
			"acts as another":    run("n,a=b,"+bare, bare, "secret", same),
			"channel binding":    run("p=tls-unique,,"+bare, bare, "secret", same),
			"delegation token":   run("n,,"+bare+",tokenauth=true", bare, "secret", same),
			"mandatory":          run("n,,m=x,"+bare, bare, "secret", same),
			"no nonce":           run("n,,n=user", bare, "secret", same),
			"long nonce":         run("n,,n=user,r="+strings.Repeat("x", MaxNonce+1), bare, "secret", same),
			"bad escape":         run("n,,n=a=2X,r=n", bare, "secret", same),
			"empty":              run("", bare, "secret", same),
			"other nonce":        run("n,,"+bare, bare, "secret", func(s string) string { return strings.Replace(s, "r=n", "r=m", 1) }),
			"other header":       run("n,,"+bare, bare, "secret", func(s string) string { return strings.Replace(s, "c=biws", "c=eSws", 1) }),
			"no proof":           run("n,,"+bare, bare, "secret", func(s string) string { return s[:strings.Index(s, ",p=")] }),
			"short proof":        run("n,,"+bare, bare, "secret", func(s string) string { return s[:len(s)-8] }),
			"something unsigned": run("n,,"+bare, bare, "secret", func(s string) string { return strings.Replace(s, ",p=", ",x=1,p=", 1) }),
		} {
			if !errors.Is(err, ErrAuthentication) {
				t.Errorf("%s, %s: %v", m, name, err)
			}
		}
	}
}

// S4: the salt of somebody who is not there does not change from one try to the next.
func TestWhoIsNotThereHasASalt(t *testing.T) {
	ask := func(user string) string {
		got, err := exchange(credential(t, SHA256, "user", "x")).First([]byte("n,,n="+user+",r=n"), "s")
		if err != nil {
			t.Fatal(err)
		}
		return string(got)
	}
	first := ask("who")
	if again := ask("who"); again != first || ask("else") == first || !strings.Contains(first, ",i=4096") {
		t.Errorf("%s, then %s; another %s", first, again, ask("else"))
	}
}

// S2: what is printed of a credential has no key in it, whatever the verb.
func TestCredentialsDoNotPrintTheirKeys(t *testing.T) {
	c := credential(t, SHA512, "user", "pencil")
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, text := range []string{fmt.Sprintf(verb, c), fmt.Sprintf(verb, &c), fmt.Sprintf(verb, []Credential{c})} {
			if strings.Contains(text, fmt.Sprint(c.StoredKey[0], " ", c.StoredKey[1])) || strings.Contains(text, fmt.Sprintf("%x", c.StoredKey[:2])) || len(text) > 60 {
				t.Errorf("%s prints %s", verb, text)
			}
		}
	}
}

func TestCredentialMatchesItsPassword(t *testing.T) {
	for _, m := range Mechanisms {
		c := credential(t, m, "user", "pencil")
		if !c.Matches([]byte("pencil")) || c.Matches([]byte("pen")) || c.Matches(nil) {
			t.Errorf("%s", m)
		}
	}
}

func TestCredentialsThatAreNone(t *testing.T) {
	key := bytes.Repeat([]byte{1}, 32)
	for name, err := range map[string]error{
		"mechanism":           second(NewCredential("u", 3, key, key, 4096)),
		"few iterations":      second(NewCredential("u", SHA256, key, key, MinIterations-1)),
		"many iterations":     second(NewCredential("u", SHA256, key, key, MaxIterations+1)),
		"no salt":             second(NewCredential("u", SHA256, nil, key, 4096)),
		"long salt":           second(NewCredential("u", SHA256, make([]byte, MaxSalt+1), key, 4096)),
		"password, not keyed": second(NewCredential("u", SHA256, key, []byte("secret"), 4096)),
		"no user":             second(NewCredential("", SHA256, key, key, 4096)),
		"long user":           second(NewCredential(strings.Repeat("u", MaxUserName+1), SHA256, key, key, 4096)),
	} {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second(_ Credential, err error) error { return err }

// Whatever is sent, nobody is let in by it, and nothing panics.
func FuzzExchange(f *testing.F) {
	f.Add([]byte("n,,n=user,r=n"), []byte("c=biws,r=ns,p="+base64.StdEncoding.EncodeToString(make([]byte, 32))))
	c := credential(f, SHA256, "user", "pencil")
	f.Fuzz(func(t *testing.T, first, last []byte) {
		x := exchange(c)
		if _, err := x.First(first, "s"); err != nil && !errors.Is(err, ErrAuthentication) {
			t.Fatal(err)
		}
		if _, user, err := x.Final(last); err == nil {
			t.Fatalf("%q is let in", user)
		}
	})
}
