# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Serve one OpenStack API in this process: wsgi.py MODULE PORT."""
import importlib
import sys

import waitress

module, port = sys.argv[1:]
sys.argv = [module]  # the services parse it
application = importlib.import_module(module).application
waitress.serve(application, listen=f"127.0.0.1:{port}", threads=8, ident=None,
               clear_untrusted_proxy_headers=True, channel_timeout=600)
