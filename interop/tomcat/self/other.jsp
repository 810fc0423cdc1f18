<%@ page contentType="text/plain" %>the other page
