package account_test

import (
	"context"
	"errors"
	"flashsale/account"
	"flashsale/account/password"
	"flashsale/account/sqliteaccount"
	"flashsale/account/token"
	"flashsale/testenv/databases"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const good = "correct horse"

// counted is a real hasher that notes which hashes were verified and how many were made.
type counted struct {
	account.Hasher
	made     int
	verified []string
}

func (c *counted) Hash(ctx context.Context, password string) (string, error) {
	c.made++
	return c.Hasher.Hash(ctx, password)
}

func (c *counted) Verify(ctx context.Context, password, hash string) error {
	c.verified = append(c.verified, hash)
	return c.Hasher.Verify(ctx, password, hash)
}

// desk is the service over a file of its own, with what the tests look at.
type desk struct {
	*account.Service
	t      *testing.T
	hasher *counted
	tokens *token.Tokens
	ahead  atomic.Int64
}

func (d *desk) now() time.Time { return time.Now().Add(time.Duration(d.ahead.Load())) }

func open(t *testing.T) *desk {
	t.Helper()
	db := databases.SQLite(t, sqliteaccount.Migrations)
	h, err := password.New(64, 2)
	must(t, err)
	d := &desk{t: t, hasher: &counted{Hasher: h}}
	d.tokens, err = token.New([]string{strings.Repeat("s", 32)}, 15*time.Minute, d.now)
	must(t, err)
	d.Service = account.NewService(sqliteaccount.New(db), d.hasher, d.tokens, d.now)
	return d
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("error %v, want %v", got, want)
	}
}

func (d *desk) register(email string) account.User {
	d.t.Helper()
	u, err := d.Register(d.t.Context(), email, good)
	must(d.t, err)
	return u
}

func (d *desk) login(email string) account.Tokens {
	d.t.Helper()
	tokens, err := d.Login(d.t.Context(), email, good)
	must(d.t, err)
	return tokens
}

// wantTokens: the access token is of this account.
func (d *desk) wantTokens(got account.Tokens, u account.User) {
	d.t.Helper()
	c, err := d.tokens.Verify(got.Access)
	if err != nil || c.User != u.ID || c.Role != u.Role || got.ExpiresIn != 15*time.Minute || len(got.Refresh) != 43 {
		d.t.Fatalf("%+v says %+v, %v", got, c, err)
	}
}

func TestService(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T, *desk){
		"register and log in":                    registers,
		"an address has one account":             duplicate,
		"addresses":                              addresses,
		"passwords have a length":                lengths,
		"a login that fails costs the same":      sameCost,
		"a refresh rotates":                      refreshes,
		"a used refresh token revokes its login": reuse,
		"refresh tokens end":                     refreshEnds,
		"what is no refresh token":               noRefresh,
		"the operator":                           operator,
		"busy is not wrong":                      busy,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func registers(t *testing.T, d *desk) {
	u := d.register("Ann@Example.com")
	if u.Email != "ann@example.com" || u.Role != account.Shopper || u.ID.IsZero() || strings.Contains(u.PasswordHash, good) || u.CreatedAt.Location() != time.UTC {
		t.Fatalf("%+v", u)
	}
	if got, err := d.User(t.Context(), u.ID); err != nil || got != u {
		t.Fatalf("%+v, %v\nwant %+v", got, err, u)
	}
	for _, email := range []string{"ann@example.com", "ANN@example.COM"} {
		d.wantTokens(d.login(email), u)
	}
	if a, b := d.login(u.Email), d.login(u.Email); a.Refresh == b.Refresh {
		t.Fatal("two logins have one refresh token")
	}
}

func duplicate(t *testing.T, d *desk) {
	u := d.register("ann@example.com")
	for _, email := range []string{"ann@example.com", "Ann@example.com", "ANN@EXAMPLE.COM"} {
		_, err := d.Register(t.Context(), email, "another password")
		wantErr(t, err, account.ErrEmailTaken)
	}
	d.wantTokens(d.login(u.Email), u)
}

func addresses(t *testing.T, d *desk) {
	for _, email := range []string{
		"", "ann", "@", "ann@", "@example.com", " ann@example.com", "ann@example.com ", "ann@exa mple.com", "<ann@example.com>",
		"Ann <ann@example.com>", "ann@example.com, bob@example.com", "ann@@example.com", "ann@example.com\r\nBcc: bob@example.com",
		"ann\x00@example.com", "ann\xff@example.com", `"ann b"@example.com`, strings.Repeat("a", 243) + "@example.com",
	} {
		_, err := d.Register(t.Context(), email, good)
		if !errors.Is(err, account.ErrInvalidEmail) {
			t.Errorf("%q: %v", email, err)
		}
	}
	if d.hasher.made != 0 {
		t.Errorf("%d hashes were made for addresses that are none", d.hasher.made)
	}
	for _, email := range []string{"a@b", "ann+sale@example.com", "o'hara@example.com", "jürgen@example.com", strings.Repeat("a", 242) + "@example.com"} {
		d.wantTokens(d.login(d.register(email).Email), d.user(email))
	}
}

func (d *desk) user(email string) account.User {
	d.t.Helper()
	c, err := d.tokens.Verify(d.login(email).Access)
	must(d.t, err)
	u, err := d.User(d.t.Context(), c.User)
	must(d.t, err)
	return u
}

func lengths(t *testing.T, d *desk) {
	for name, c := range map[string]struct {
		password string
		want     error
	}{
		"none":                  {"", account.ErrWeakPassword},
		"nine":                  {strings.Repeat("a", 9), account.ErrWeakPassword},
		"ten":                   {strings.Repeat("a", 10), nil},
		"nine wide":             {strings.Repeat("ü", 9), account.ErrWeakPassword},
		"as many as there may":  {strings.Repeat("a", 128), nil},
		"as many wide":          {strings.Repeat("𝄞", 128), nil},
		"one too many":          {strings.Repeat("a", 129), account.ErrWeakPassword},
		"one wide too many":     {strings.Repeat("𝄞", 129), account.ErrWeakPassword},
		"not text":              {strings.Repeat("\xff", 20), account.ErrWeakPassword},
		"a megabyte":            {strings.Repeat("a", 1<<20), account.ErrWeakPassword},
		"blanks are characters": {strings.Repeat(" ", 10), nil},
	} {
		email := strings.ReplaceAll(name, " ", "-") + "@example.com"
		_, err := d.Register(t.Context(), email, c.password)
		wantErr(t, err, c.want)
		if c.want == nil {
			if _, err := d.Login(t.Context(), email, c.password); err != nil {
				t.Errorf("%s: registered, but: %v", name, err)
			}
		}
	}
}

// sameCost: whoever tries a login cannot tell from its answer, or from the work done, whether there
// is an account.
func sameCost(t *testing.T, d *desk) {
	u := d.register("ann@example.com")
	for name, c := range map[string]struct {
		email, password string
		verified        []string
	}{
		"wrong password":              {u.Email, "wrong password", []string{u.PasswordHash}},
		"no password":                 {u.Email, "", []string{u.PasswordHash}},
		"unknown address":             {"bob@example.com", "wrong password", []string{""}},
		"unknown, her password":       {"bob@example.com", good, []string{""}},
		"no address":                  {"x", good, []string{""}},
		"a long password":             {u.Email, strings.Repeat("a", 513), nil},
		"a long password, of unknown": {"bob@example.com", strings.Repeat("a", 513), nil},
	} {
		d.hasher.verified = nil
		got, err := d.Login(t.Context(), c.email, c.password)
		if err == nil || err.Error() != account.ErrBadCredentials.Error() || got != (account.Tokens{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if !slices.Equal(d.hasher.verified, c.verified) {
			t.Errorf("%s: verified %q, want %q", name, d.hasher.verified, c.verified)
		}
	}
}

func refreshes(t *testing.T, d *desk) {
	u := d.register("ann@example.com")
	tokens := d.login(u.Email)
	seen := []string{tokens.Refresh}
	for range 4 {
		next, err := d.Refresh(t.Context(), tokens.Refresh)
		must(t, err)
		d.wantTokens(next, u)
		if slices.Contains(seen, next.Refresh) {
			t.Fatal("a refresh token twice")
		}
		seen, tokens = append(seen, next.Refresh), next
	}
}

func reuse(t *testing.T, d *desk) {
	u := d.register("ann@example.com")
	laptop, phone := d.login(u.Email), d.login(u.Email)
	newest, err := d.Refresh(t.Context(), laptop.Refresh)
	must(t, err)
	got, err := d.Refresh(t.Context(), laptop.Refresh)
	wantErr(t, err, account.ErrRefreshReused)
	if got != (account.Tokens{}) {
		t.Fatalf("%+v", got)
	}
	_, err = d.Refresh(t.Context(), newest.Refresh)
	wantErr(t, err, account.ErrTokenInvalid)
	next, err := d.Refresh(t.Context(), phone.Refresh)
	must(t, err)
	d.wantTokens(next, u)
	d.wantTokens(d.login(u.Email), u)
}

func refreshEnds(t *testing.T, d *desk) {
	tokens := d.login(d.register("ann@example.com").Email)
	d.ahead.Store(int64(30*24*time.Hour - time.Minute))
	next, err := d.Refresh(t.Context(), tokens.Refresh)
	must(t, err)
	_, err = d.tokens.Verify(tokens.Access)
	wantErr(t, err, account.ErrTokenExpired)
	d.ahead.Add(int64(30 * 24 * time.Hour))
	_, err = d.Refresh(t.Context(), next.Refresh)
	wantErr(t, err, account.ErrTokenInvalid)
}

func noRefresh(t *testing.T, d *desk) {
	tokens := d.login(d.register("ann@example.com").Email)
	for _, s := range []string{"", "x", strings.Repeat("A", 42), strings.Repeat("A", 43), strings.Repeat("A", 44), strings.Repeat("!", 43), tokens.Access, tokens.Refresh + "=", strings.Repeat("A", 1<<20)} {
		if got, err := d.Refresh(t.Context(), s); !errors.Is(err, account.ErrTokenInvalid) || got != (account.Tokens{}) {
			t.Errorf("%.50q: %+v, %v", s, got, err)
		}
	}
	_, err := d.Refresh(t.Context(), tokens.Refresh) // none of that was a use of it
	must(t, err)
}

func operator(t *testing.T, d *desk) {
	must(t, d.EnsureOperator(t.Context(), "Op@example.com", good))
	op := d.user("op@example.com")
	if op.Role != account.Operator {
		t.Fatalf("%+v", op)
	}
	must(t, d.EnsureOperator(t.Context(), "op@EXAMPLE.com", "another password"))
	if again := d.user("op@example.com"); again != op { // it still logs in with the first password
		t.Fatalf("%+v\nwas %+v", again, op)
	}
	u := d.register("ann@example.com")
	if err := d.EnsureOperator(t.Context(), u.Email, good); err == nil {
		t.Fatal("a shopper's account passes for the operator's")
	}
	if again := d.user(u.Email); again != u {
		t.Fatalf("%+v\nwas %+v", again, u)
	}
	wantErr(t, d.EnsureOperator(t.Context(), "x", good), account.ErrInvalidEmail)
	wantErr(t, d.EnsureOperator(t.Context(), "op2@example.com", "short"), account.ErrWeakPassword)
}

// busy: a hasher without room says nothing about the account, and makes none.
func busy(t *testing.T, d *desk) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := d.Register(ctx, "ann@example.com", good)
	wantErr(t, err, account.ErrBusy)
	wantErr(t, d.EnsureOperator(ctx, "op@example.com", good), account.ErrBusy)
	d.register("ann@example.com")
	must(t, d.EnsureOperator(t.Context(), "op@example.com", good))
}
