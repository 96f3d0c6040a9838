package postgres

import (
	"flashsale/id"

	"github.com/jackc/pgx/v5/pgtype"
)

// pgx knows an id.ID by reflection only: it converts each value of each array, which was half of the
// encoding of a group. These tell it what an id is.

type uuid id.ID

// UUIDValue implements pgtype.UUIDValuer.
func (v *uuid) UUIDValue() (pgtype.UUID, error) { return pgtype.UUID{Bytes: *v, Valid: true}, nil }

// uuids implements pgtype.ArrayGetter.
type uuids []id.ID

func (u uuids) Dimensions() []pgtype.ArrayDimension {
	if u == nil {
		return nil
	}
	return []pgtype.ArrayDimension{{Length: int32(len(u)), LowerBound: 1}}
}

func (u uuids) Index(i int) any { return (*uuid)(&u[i]) }
func (u uuids) IndexType() any  { return (*uuid)(nil) }

type wrapIDs struct{ next pgtype.EncodePlan }

func (w *wrapIDs) SetNext(next pgtype.EncodePlan) { w.next = next }

func (w *wrapIDs) Encode(value any, buf []byte) ([]byte, error) {
	switch v := value.(type) {
	case []id.ID:
		return w.next.Encode(uuids(v), buf)
	case id.ID:
		return w.next.Encode((*uuid)(&v), buf)
	}
	return w.next.Encode(value, buf)
}

func planIDs(value any) (pgtype.WrappedEncodePlanNextSetter, any, bool) {
	switch v := value.(type) {
	case []id.ID:
		return &wrapIDs{}, uuids(v), true
	case id.ID:
		return &wrapIDs{}, (*uuid)(&v), true
	}
	return nil, nil, false
}
