// The driver script by pgx.
package main

import (
	"context"
	"errors"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
)

type pgxConnection struct {
	conn *pgx.Conn
	tx   pgx.Tx
}

func connect(ctx context.Context, url string) (connection, error) {
	conn, err := pgx.Connect(ctx, url)
	return &pgxConnection{conn: conn}, err
}

func stateOf(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

func (c *pgxConnection) run(ctx context.Context, sql string, values []interface{}) ([][]interface{}, error) {
	rows, err := c.conn.Query(ctx, sql, values...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all [][]interface{}
	for rows.Next() {
		row, err := rows.Values()
		if err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return all, rows.Err()
}

func (c *pgxConnection) begin(ctx context.Context) (err error) {
	c.tx, err = c.conn.Begin(ctx)
	return err
}

func (c *pgxConnection) end(ctx context.Context, commits bool) error {
	if commits {
		return c.tx.Commit(ctx)
	}
	return c.tx.Rollback(ctx)
}

func (c *pgxConnection) close(ctx context.Context) error {
	return c.conn.Close(ctx)
}
