/*-------------------------------------------------------------------------
 *
 * tls.c
 *	  The worker's certificates and key, from the files that settings name.
 *
 * The files are read at the start and whenever the configuration is reloaded,
 * and looked at before they are used: a certificate without its key, or half
 * of a file, must not take the place of what works.  What is wrong is then
 * known at once, not when the next connection fails.
 *
 *-------------------------------------------------------------------------
 */
#include "worker.h"

#ifdef USE_OPENSSL
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#endif

#include "config_file.h"
#include "tls.h"

static bool loaded = false;

#ifdef USE_OPENSSL

/* There is nobody to ask for a passphrase. */
static int
no_passphrase(char *buf, int size, int rwflag, void *userdata)
{
	return 0;
}

static char *
openssl_error(const char *what, const char *path)
{
	unsigned long code = ERR_get_error();
	const char *reason = ERR_reason_error_string(code);

	ERR_clear_error();
	return psprintf("could not load %s \"%s\": %s", what, path,
					reason != NULL ? reason : "unknown error");
}

static X509 *
read_certificate(const ConfigFile *file)
{
	BIO		   *bio = BIO_new_mem_buf(file->content, (int) file->len);
	X509	   *cert = NULL;

	ERR_clear_error();
	if (bio != NULL)
		cert = PEM_read_bio_X509_AUX(bio, NULL, no_passphrase, NULL);
	BIO_free(bio);
	return cert;
}

static EVP_PKEY *
read_key(const ConfigFile *file)
{
	BIO		   *bio = BIO_new_mem_buf(file->content, (int) file->len);
	EVP_PKEY   *key = NULL;

	ERR_clear_error();
	if (bio != NULL)
		key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
	BIO_free(bio);
	return key;
}

/* Only said: the server decides, by its own clock. */
static void
warn_if_expired(const X509 *cert, const char *path)
{
	if (X509_cmp_current_time(X509_get0_notAfter(cert)) < 0)
		ereport(LOG,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("etcd_lock: certificate \"%s\" has expired", path)));
}

static char *
check_pair(const ConfigFile *cert_file, const ConfigFile *key_file)
{
	X509	   *cert = read_certificate(cert_file);
	EVP_PKEY   *key;
	char	   *error = NULL;

	if (cert == NULL)
		return openssl_error("certificate file", etcd_lock_cert);
	key = read_key(key_file);
	if (key == NULL)
		error = openssl_error("private key file", etcd_lock_key);
	else if (X509_check_private_key(cert, key) != 1)
	{
		ERR_clear_error();
		error = psprintf("private key file \"%s\" does not belong to certificate file \"%s\"",
						 etcd_lock_key, etcd_lock_cert);
	}
	else
		warn_if_expired(cert, etcd_lock_cert);
	EVP_PKEY_free(key);
	X509_free(cert);
	return error;
}

static char *
check_cacert(const ConfigFile *file)
{
	X509	   *cert = read_certificate(file);

	if (cert == NULL)
		return openssl_error("root certificate file", etcd_lock_cacert);
	warn_if_expired(cert, etcd_lock_cacert);
	X509_free(cert);
	return NULL;
}

#else

static char *
check_pair(const ConfigFile *cert_file, const ConfigFile *key_file)
{
	return NULL;
}

static char *
check_cacert(const ConfigFile *file)
{
	return NULL;
}

#endif							/* USE_OPENSSL */

static char *
read_files(ConfigFile *cacert, ConfigFile *cert, ConfigFile *key)
{
	char	   *error = NULL;

	if (etcd_lock_cacert[0] != '\0')
	{
		error = config_file_read(etcd_lock_cacert, false, cacert);
		if (error == NULL)
			error = check_cacert(cacert);
	}
	if (error != NULL)
		return error;

	if ((etcd_lock_cert[0] == '\0') != (etcd_lock_key[0] == '\0'))
		return pstrdup("\"etcd_lock.cert\" and \"etcd_lock.key\" must be set together");
	if (etcd_lock_cert[0] == '\0')
		return NULL;
	error = config_file_read(etcd_lock_cert, false, cert);
	if (error == NULL)
		error = config_file_read(etcd_lock_key, true, key);
	if (error == NULL)
		error = check_pair(cert, key);
	return error;
}

char *
tls_load(void)
{
	ConfigFile	cacert = {0};
	ConfigFile	cert = {0};
	ConfigFile	key = {0};
	char	   *error = read_files(&cacert, &cert, &key);

	if (error == NULL)
	{
		EtcdTls		tls = {
			cacert.content, cacert.len, cert.content, cert.len, key.content, key.len
		};

		if (etcd_transport_set_tls(worker_transport, &tls))
			loaded = true;
		else
			error = pstrdup("out of memory");
	}
	config_file_free(&cacert);
	config_file_free(&cert);
	config_file_free(&key);
	return error;
}

bool
tls_loaded(void)
{
	return loaded;
}
