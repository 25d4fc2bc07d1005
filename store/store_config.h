#ifndef STORE_STORE_CONFIG_H
#define STORE_STORE_CONFIG_H

/*
 * config.json of a store: its format version, its id and its secrets. Mode
 * 0600. Written once, last of all by store_init(): its presence is what makes
 * a directory a store.
 */

#include "store/ident.h"

#define STORE_FORMAT    1u
#define STORE_UUID_SIZE 16u

struct store_config {
    enum store_identity identity;
    uint8_t store_id[STORE_UUID_SIZE];
    uint8_t key[IDENT_KEY_SIZE];
    uint8_t secret[IDENT_SECRET_SIZE];
};

/* Draw a new id and new secrets; identity BLAKE3. */
int store_config_draw(struct store_config *ret, struct vn_err *err) VN_MUST_USE;

/* Write `dir`/config.json, durably. */
int store_config_write(const char *dir, const struct store_config *config,
                       struct vn_err *err) VN_MUST_USE;

/* VN_E_NOT_FOUND: no store there. VN_E_VERSION names both versions, or the
 * identity that this program does not know. */
int store_config_read(const char *dir, struct store_config *ret,
                      struct vn_err *err) VN_MUST_USE;

/* The same from the text of that file; `name` is for messages. */
int store_config_parse(const char *text, size_t size, const char *name,
                       struct store_config *ret,
                       struct vn_err *err) VN_MUST_USE;

#endif
