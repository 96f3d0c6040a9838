package redisstock

import (
	"flashsale/id"
	"flashsale/inventory"
	"strconv"
	"strings"
	"testing"
	"time"
)

// FuzzPending: a pending record is read as take.lua wrote it, or refused; the reaper acts on it.
func FuzzPending(f *testing.F) {
	user, take := id.Derive("user").String(), id.New(time.UnixMilli(1)).String()
	f.Add(take, "2 "+user+" 1763719200000")
	f.Add(take, "1 00000000-0000-0000-0000-000000000000 0") // of a transfer: nobody's
	f.Add(take, "1 "+user)
	f.Add(take, "1 "+user+" 1 {\"key\":\"a b\"}")
	f.Add(take, "1 "+user+" 1 ")
	f.Add(take, "1.5 "+user+" 1")
	f.Add(take, "99999999999999999999 "+user+" 1")
	f.Add("no take", "1 "+user+" 1")
	f.Add(take, "1 nobody 1")
	f.Add(take, "1 "+user+" soon")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, take, record string) {
		p, err := parsePending(take, record)
		if err != nil {
			return
		}
		if !strings.EqualFold(p.ID.String(), take) {
			t.Fatalf("take %q is read as %s", take, p.ID)
		}
		written := strconv.Itoa(p.Qty) + " " + p.User.String() + " " + strconv.FormatInt(p.Deadline.UnixMilli(), 10)
		if p.Note != "" {
			written += " " + p.Note
		}
		again, err := parsePending(p.ID.String(), written)
		if err != nil || again != p {
			t.Fatalf("%q is read as %+v, and %q as %+v, %v", record, p, written, again, err)
		}
	})
}

// FuzzKeys: two buckets share no key, and the keys of one have one hash tag, whatever the SKU is.
func FuzzKeys(f *testing.F) {
	f.Add("A", 0, "A", 1)
	f.Add("A/1", 0, "A", 10)
	f.Add("a b{c}:d%", 0, "a b{c}:d", 0)
	f.Add("}", 0, "{", 0)
	f.Add("", 0, "/", 0)
	f.Fuzz(func(t *testing.T, sku string, shard int, other string, another int) {
		item := inventory.ItemID{Sale: id.Derive("sale"), SKU: sku}
		a, b := inventory.BucketID{Item: item, Shard: shard}, inventory.BucketID{Item: inventory.ItemID{Sale: item.Sale, SKU: other}, Shard: another}
		k, l := keysOf(a), keysOf(b)
		if (k == l) != (a == b) {
			t.Fatalf("%v and %v: %+v and %+v", a, b, k, l)
		}
		tag := func(key string) string {
			_, rest, _ := strings.Cut(key, "{")
			tag, rest, _ := strings.Cut(rest, "}")
			if tag == "" || strings.ContainsAny(tag+rest, "{}") {
				t.Fatalf("key %q", key)
			}
			return tag
		}
		for _, key := range []string{k.pending, k.due, k.users, k.usersOf(1)} {
			if tag(key) != tag(k.meta) {
				t.Fatalf("%q and %q are on different nodes", key, k.meta)
			}
		}
	})
}
